"""All runs that this executor knows: started, watched, ended, kept until they are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from dispatcher import wire, worker_api
from dispatcher.executor.ending.endings import Endings
from dispatcher.executor.ending.oom_kills import OomKills
from dispatcher.executor.journal import Journal, Line, summary
from dispatcher.executor.log import Log
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.budgets import Budgets
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.output.forwarder import Forwarder
from dispatcher.executor.run import Phase, TrackedRun, ids
from dispatcher.executor.starting.spawn import CannotStart, Spawner
from dispatcher.executor.system.kernel import Kernel
from dispatcher.times import NEVER, Instant

#: Seconds between two looks at our children while runs live: dead orphans are reaped, new ones
#: attributed while their parents are still there. One wake-up a second.
SURVEY_INTERVAL = 1.0

#: The same while orphans die in numbers, and how many that is: a storm of forks must not leave
#: the host without pids.
STORM_INTERVAL = 0.05
STORM = 50

#: Seconds for which a start is not told, so that a run that ends at once is told in one go: the
#: daemon then writes it down once. Nobody waits for a start.
START_UNTOLD = 0.02

#: Seconds that a daemon which has just connected is given to confirm runs before its absence is
#: judged: it may have waited at the door while this process was stopped. Given again only after a
#: start or a confirmation.
FIRST_WORD = 2.0


class Runs:
    """Holds the runs, and what each waits for; never waits for any of them."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        spawner: Spawner,
        outputs: OutputFiles,
        journal: Journal,
        notices: Notices,
        log: Log,
        send: Callable[[wire.FromExecutor], None],
        output_dir: str,
        node: str,
    ) -> None:
        self._output_dir = output_dir
        self._kernel = kernel
        self._spawner = spawner
        self._outputs = outputs
        self._journal = journal
        self._notices = notices
        self._log = log
        self._send = send
        self._runs: dict[wire.RunUid, TrackedRun] = {}
        self._endings = Endings(
            self._runs, kernel=kernel, outputs=outputs, journal=journal, log=log, send=send
        )
        self._oom_kills = OomKills(kernel, log)
        self._live: dict[wire.RunUid, TrackedRun] = {}
        self._starts: list[tuple[TrackedRun, wire.Start]] = []
        self._attention: dict[wire.RunUid, TrackedRun] = {}
        self._by_handle: dict[int, TrackedRun] = {}
        self._without_handle: list[TrackedRun] = []
        self._untold: dict[wire.RunUid, wire.Started] = {}
        self._budgets = Budgets(log, kernel.growth)
        self._forwarder = Forwarder(kernel, journal, log, node=node)
        self._due = NEVER
        self._survey_at = Instant(0.0) if self._endings.has_left else NEVER
        self._awaits_word = False

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def marks(self) -> bool:
        """Whether the processes of new runs carry their mark."""
        return self._spawner.why_unmarked is None

    @property
    def unforgotten(self) -> bool:
        """Whether the daemon has not settled all that it was told."""
        return any(not run.forget_later for run in self._runs.values())

    @property
    def live(self) -> int:
        """How many runs are not gone."""
        return len(self._live)

    @property
    def unkillable(self) -> list[TrackedRun]:
        """The runs of which something survived SIGKILL."""
        return [run for run in self._live.values() if run.unkillable]

    @property
    def sweeping(self) -> bool:
        """Whether a dead executor's run may still have processes that SIGKILL will end."""
        return self._endings.sweeping

    @property
    def due(self) -> Instant:
        """When to act even if nothing happens."""
        if self._attention:
            return Instant(0.0)
        due = min(self._journal.due, self._forwarder.due)
        if self._live:
            return min(due, self._due, self._survey_at, self._tell_at, self._budgets.due)
        return min(due, self._survey_at) if self._endings.has_left else due

    def described(self) -> Iterable[wire.RunReport]:
        """Yield each run as a new daemon must know it."""
        for run in self._runs.values():
            yield wire.RunReport(
                uid=run.uid,
                state=run.state,
                pid=run.pid,
                start_ticks=run.start_ticks,
                exit=run.exit,
                ended_by=run.ended_by,
                until=run.until,
                reason=run.why_held,
            )

    # What is asked ---------------------------------------------------------------------------

    def inherit(self, at: Instant) -> None:
        """Take over the predecessor's runs; what survives of them gets SIGKILL at once."""
        for run in self._journal.predecessors_runs():
            self._inherit(run, at)
        if (damage := self._journal.damage) is not None:
            path, lines, first = self._journal.path, damage.lines, damage.first
            self._log("journal.damaged", path=path, lines=lines, first=first)
        self._compact(at)

    def _inherit(self, run: TrackedRun, at: Instant) -> None:
        self._runs[run.uid] = run
        if run.forwarded is not None:
            self._forwarder.follow(run, None, at)
        if not self._endings.inherit(run, at):
            self._forwarder.end(run.uid, at)
        else:
            self._live[run.uid] = self._attention[run.uid] = run

    def note_exits(self, ready: Iterable[int], at: Instant) -> None:
        """Take note of the leaders that have exited, before anything is asked of them."""
        self._budgets.heed(ready, at)
        self._forwarder.heed(ready, at)
        for descriptor in ready:
            run = self._by_handle.get(descriptor)
            if run is not None and not self._note_exit(run, at):
                # Dead, and held by a tracer: its handle would tell so at every look until then.
                self._drop_handle(run)
                self._without_handle.append(run)

    def note_unwatched(self, at: Instant) -> None:
        """Take note of exits that no handle tells of."""
        for run in self._without_handle:
            if run.leader_lives:
                self._note_exit(run, at)
        self._without_handle = [run for run in self._without_handle if run.leader_lives]

    def start(self, start: wire.Start, at: Instant) -> None:
        """Start a run in this tick, unless it is known or too late."""
        if start.uid in self._runs:
            return
        run = TrackedRun(
            uid=start.uid,
            output_path=start.output_path,
            kill_signal=start.kill_signal,
            kill_mode=start.kill_mode,
            kill_grace=start.kill_grace,
            leftover_grace=start.leftover_grace,
            report_leftovers=start.report_leftovers,
            deadlines=dict(start.deadlines),
            longest=start.longest,
            marked=self.marks,
            whose={
                name: start.env[name] for name in worker_api.IDENTITY_VARIABLES if name in start.env
            },
            forwarded=0 if start.to_journald else None,
        )
        if name := run.passed_deadline(at):
            self.refuse(start, wire.Fault.LATE, f"its deadline {name} has passed")
            return
        self._awaits_word = False
        if not self._live:
            self._oom_kills.begin()
        self._runs[run.uid] = self._live[run.uid] = run
        self._survey_at = min(self._survey_at, Instant(at + SURVEY_INTERVAL))
        self._starts.append((run, start))
        starting = Line(
            event="starting",
            uid=run.uid,
            at=at,
            output_path=run.output_path,
            marked=run.marked or None,
            whose=dict(run.whose) or None,
            forwarded=run.forwarded,
        )
        self._journal.note(starting)

    def refuse(
        self, start: wire.Start, fault: wire.Fault, error: str, number: int | None = None
    ) -> None:
        """Say that a run has no process."""
        error = wire.as_utf8(error)
        self._log("run.start_failed", **ids(start.uid, start.env), fault=fault, error=error)
        self._send(wire.StartFailed(uid=start.uid, fault=fault, error=error, errno=number))

    def end(
        self,
        uid: wire.RunUid,
        reason: str,
        at: Instant,
        *,
        at_once: bool = False,
        longest_grace: float | None = None,
    ) -> bool:
        """Begin to end a run; say whether that is what ends its leader.

        One that nobody here knows is a dead executor's whose journal was lost: its daemon does.
        """
        run = self._runs.get(uid)
        if run is None:
            run = TrackedRun(uid, f"{self._output_dir}/{uid}.log", held_until=at, marked=True)
            self._inherit(run, at)
            self._journal.note(summary(run, at))
            return False
        if not (run.may_be_ended or (at_once and run.phase is Phase.ASKED)):
            return False
        if longest_grace is not None:
            run.kill_grace = min(run.kill_grace, longest_grace)
        begun = run.may_be_ended and run.leader_lives
        if begun:
            run.ended_by = reason
            self._journal.note(Line(event="ending", uid=uid, at=at, ended_by=reason))
            self._log("run.ending", **run.ids, reason=reason)
        if at_once:
            run.kill(at)
        else:
            run.ask(at)
        self._attention[uid] = run
        return begun

    def end_ourselves(self, uid: wire.RunUid, reason: str, at: Instant) -> None:
        """Begin an ending that the daemon did not ask for, and tell it."""
        if self.end(uid, reason, at):
            self._send(wire.Changed(uid=uid, state=wire.RunState.ENDING, ended_by=reason))

    def end_all(self, reason: str, at: Instant) -> None:
        """Begin to end every run."""
        for uid in self._runs:
            self.end_ourselves(uid, reason, at)

    def await_word(self, at: Instant) -> None:
        """Judge no absence before the daemon that has just connected could speak."""
        if not self._awaits_word:
            self._awaits_word = True
            for run in self._live.values():
                if (deadline := run.deadlines.get(wire.EndedBy.ABSENCE)) is not None:
                    run.deadlines[wire.EndedBy.ABSENCE] = max(deadline, at + FIRST_WORD)

    def renew(self, deadlines: dict[wire.RunUid, dict[str, float]]) -> None:
        """Move kill deadlines, never back, as the daemon says."""
        self._awaits_word = False
        self._move(deadlines)

    def _move(self, deadlines: dict[wire.RunUid, dict[str, float]]) -> None:
        for uid, moved in deadlines.items():
            if run := self._runs.get(uid):
                for name, instant in moved.items():
                    run.deadlines[name] = max(instant, run.deadlines.get(name, instant))
                self._due = min(self._due, run.due)

    def extend(self, uid: wire.RunUid, until: Instant) -> None:
        """Let a worker move its own run time-out, as far as it may."""
        run = self._runs.get(uid)
        if run is not None and run.longest is not None:
            run.until = min(run.longest, max(until, run.until or until))
            self._move({uid: {wire.EndedBy.RUN_TIMEOUT: run.until + wire.BACKSTOP}})

    def forget(self, uid: wire.RunUid, at: Instant) -> None:
        """Drop a run that is gone."""
        run = self._runs.get(uid)
        if run is None:
            return
        if run.phase is not Phase.GONE:
            self._log("run.forget_refused", **run.ids, state=run.state)
            return
        if self._forwarder.is_behind(uid):
            run.forget_later = True  # a successor must know how far its output was forwarded
            return
        del self._runs[uid]
        self._notices.forget(uid)
        self._journal.note(Line(event="forgotten", uid=uid, at=at))

    def close(self, at: Instant) -> None:
        """Forward the rest of what runs that are gone have written, for a second at most."""
        self._forget_forwarded(self._forwarder.finish(at), at)
        self._journal.flush()
        self._forwarder.close()

    # What is done ----------------------------------------------------------------------------

    def act(self, at: Instant, *, heard: bool) -> None:
        """Do everything that is due: intentions are journaled before, observations after.

        `heard` is whether all was heard that the daemon had said: it may have moved deadlines.
        """
        self._endings.new_tick()
        self._note_time(at, heard=heard)
        error = self._journal.flush()
        starts, self._starts = self._starts, []
        for run, start in starts:
            self._spawn(run, start, error, at)
        attention, self._attention = self._attention, {}
        self._endings.share_among(len(attention))
        self._oom_kills.judge(attention.values(), at)
        for run in attention.values():
            self._advance(run, at)
        if self._endings.behind:
            self._survey_at = at
        self._tell_starts(at)
        self._journal.flush()
        if at >= self._journal.due:
            self._compact(at)

    def _compact(self, at: Instant) -> None:
        if error := self._journal.rewrite(self._runs.values(), at):
            self._log("journal.write_failed", error=str(error))

    def _note_exit(self, run: TrackedRun, at: Instant) -> bool:
        status = self._kernel.exit_of(run.pid) if run.pid else None
        if status is None:
            return False
        self._drop_handle(run)
        run.leader_exited(wire.Exit(at=at, exit_code=status.exit_code, signal=status.signal), at)
        self._attention[run.uid] = run
        return True

    def _drop_handle(self, run: TrackedRun) -> None:
        if run.handle is not None:
            del self._by_handle[run.handle]
            self._kernel.release(run.handle)
            run.handle = None

    def _note_time(self, at: Instant, *, heard: bool) -> None:
        if at >= self._due:
            self._due = NEVER
            for run in self._live.values():
                if run.due <= at:
                    self._judge(run, at, heard=heard)
                self._due = min(self._due, run.due)
        if at >= self._forwarder.due:  # before the budgets drop what it has not read
            self._forget_forwarded(self._forwarder.keep(at), at)
        if at >= self._budgets.due:
            self._budgets.keep(at)
        if at >= self._survey_at:
            interval = STORM_INTERVAL if self._endings.survey(at) > STORM else SURVEY_INTERVAL
            watched = self._live or self._endings.has_left
            self._survey_at = Instant(at + interval) if watched else NEVER
            self._oom_kills.look(at)
            self.note_unwatched(at)

    def _forget_forwarded(self, uids: Iterable[wire.RunUid], at: Instant) -> None:
        for uid in uids:
            if self._runs[uid].forget_later:
                self.forget(uid, at)

    def _judge(self, run: TrackedRun, at: Instant, *, heard: bool) -> None:
        """Apply what is due to a run, after what it did and said by now."""
        if run.leader_lives:
            self._note_exit(run, at)
        if heard and run.passed_deadline(at):
            for until in self._notices.hear_last(run.uid, at):
                self.extend(run.uid, until)
            if name := run.passed_deadline(at):
                self.end_ourselves(run.uid, name, at)
        if min(run.limit, run.look_at) <= at:
            self._attention[run.uid] = run

    def _spawn(
        self, run: TrackedRun, start: wire.Start, error: OSError | None, at: Instant
    ) -> None:
        before = self._kernel.ticks()
        try:
            if error is not None:
                raise CannotStart.without_journal(error)
            pid = self._spawner.start(self._with_socket(start))
        except CannotStart as failure:
            self._notices.forget(run.uid)
            self._outputs.close(run.output_path)
            del self._runs[run.uid], self._live[run.uid]
            self._attention.pop(run.uid, None)
            self._journal.note(Line(event="forgotten", uid=run.uid, at=at))
            self.refuse(start, failure.fault, failure.error, failure.errno)
            return
        ticks = self._kernel.start_ticks(pid, since=before)
        run.spawned(pid, ticks, self._kernel.adopt(pid))
        if run.handle is None:
            self._without_handle.append(run)
        else:
            self._by_handle[run.handle] = run
        self._journal.note(Line(event="started", uid=run.uid, at=at, pid=pid, start_ticks=ticks))
        if start.output_budget is not None:
            output = self._outputs.file(run.output_path)
            self._budgets.watch(run.uid, output, start.output_budget, at)
        if run.forwarded is not None:
            self._forwarder.follow(run, self._outputs.file(run.output_path).descriptor, at)
        self._untold[run.uid] = wire.Started(uid=run.uid, pid=pid, start_ticks=ticks, at=at)
        self._due = min(self._due, run.due)

    def _with_socket(self, start: wire.Start) -> wire.Start:
        """Return a start whose worker finds a socket to speak systemd's protocol to, if it may."""
        if start.watchdog is None:
            return start
        try:
            found = self._notices.open(start.uid, start.watchdog)
        except OSError as error:
            text = f"cannot make its notify socket: {error}"
            raise CannotStart(wire.Fault.HOST, text, error.errno) from error
        return msgspec.structs.replace(start, env={**start.env, **found})

    def _tell_starts(self, at: Instant) -> None:
        while at >= self._tell_at:
            self._tell_start(next(iter(self._untold)))

    @property
    def _tell_at(self) -> Instant:
        for oldest in self._untold.values():
            return Instant(oldest.at + START_UNTOLD)
        return NEVER

    def _tell_start(self, uid: wire.RunUid) -> None:
        if started := self._untold.pop(uid, None):
            self._send(started)

    def _advance(self, run: TrackedRun, at: Instant) -> None:
        self._tell_start(run.uid)
        if run.exit is not None:
            self._notices.hear_last(run.uid, at)
        if self._endings.advance(run, at):
            self._notices.close(run.uid)
            del self._live[run.uid]
            self._forwarder.end(run.uid, at)
            self._budgets.drop(run.uid)
            self._outputs.close(run.output_path)
            return
        if self._endings.is_walking(run):
            self._attention[run.uid] = run
        self._due = min(self._due, run.due)
