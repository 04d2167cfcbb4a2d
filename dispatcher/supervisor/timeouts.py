"""Time-outs: runs are ended, and waiting tasks fail without a run.

Which clock each uses, and what our own absence means:

- `run_timeout`, `start_timeout` and `stall_timeout` are instants, counted from the start that the
  executor saw: no step of the wall clock moves them, suspend counts, and they survive restarts of
  the daemon. They wait while no executor answers, since nothing could be ended; and each waits for
  an answer after its deadline, since a run that ended in time is not late. The executor has
  `run_timeout` as a kill deadline, two seconds later, for a dead daemon.
- A worker's silence does not count while we could not receive: after a gap between commits longer
  than half of it, and after a restart, `start_timeout` begins anew; so does `stall_timeout`, unless
  the output's age or the last progress in the store show more.
- Growth of an output counts from when we first see it. Its file has the time of the host's clock,
  which may be set: only a daemon that has just started, and saw nothing itself, uses it.
- `queue_timeout` and `total_timeout` are store times, like `run_at`: they run while no daemon does,
  and no step of the host's clock moves them. What passed in our absence is decided at our return.
  The `total_timeout` of a task ends a run only if the run lives then.
"""

import math
from collections.abc import Sequence
from functools import partial

import structlog
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.execution import NO_LIMITS, BegunEnding, GivenUp, Limits, OpenRun
from dispatcher.executor_api import OutputState, latest_run_end, run_deadline
from dispatcher.model import Outcome
from dispatcher.policy import TOTAL_OVER, Verdict
from dispatcher.quantities.durations import Milliseconds
from dispatcher.supervisor.live_runs import LiveRun, Watch
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.times import NEVER, Alarm, Instant, StoreTime, instant_of
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Runs decided on in one transaction. Bounds how long a beat waits for its answer.
END_BATCH = 100

#: Tasks given up in one transaction. Bounds how long a worker waits for its answer.
GIVE_UP_BATCH = 500

#: Seconds without a commit, beyond the poll, that count as our absence.
AWAY = 1.0

#: Added to the reason of a stall, for runs that print all the time.
BUFFERED = "output that a program buffers is not seen"

#: Looks at an output in a stall time-out, and the minimum of seconds between two: the delay with
#: which its growth is seen.
LOOKS = 8
LEAST_LOOK = 1.0


class Timeouts:
    """Ends runs, and fails waiting tasks, at their deadlines."""

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self.tasks = Alarm()
        """For the next look at waiting tasks."""

    @property
    def due(self) -> Instant:
        """The next deadline of a run."""
        return self._memory.live.watch_due

    def begin(self, live: LiveRun, began: Instant, *, now: StoreTime, at: Instant) -> None:
        """Watch a run that has just started. Call this after the commit."""
        limits = live.limits
        if limits is NO_LIMITS:
            return
        run_by = _after(began, limits.run_timeout_ms)
        watch = Watch(
            run_by=run_by,
            start_by=_after(began, limits.start_timeout_ms),
            stall_by=_after(began, limits.stall_timeout_ms),
            look_by=_next_look(limits, began),
            total_by=instant_of(limits.total_at, now=now, at=at),
            longest=latest_run_end(limits, began, now=now, at=at) or NEVER,
        )
        self._watch(live, watch)
        if limits.run_timeout_ms is not None:
            # The start message could only guess the instant of the start.
            self._executor.send(wire.Renew(deadlines={live.uid: run_deadline(run_by)}))

    def resume(
        self, live: LiveRun, run: OpenRun, began: Instant, *, now: StoreTime, at: Instant
    ) -> None:
        """Watch a run that goes on, of whose past a new daemon knows only what can be found."""
        limits = live.limits
        if limits is NO_LIMITS:
            return
        has_beaten = run.last_heartbeat_at is not None
        found = live.watch or self._found(run, now, at)
        watch = Watch(
            run_by=_after(began, limits.run_timeout_ms),
            start_by=NEVER if has_beaten else _after(at, limits.start_timeout_ms),
            stall_by=found.stall_by if found.stall_by > at else _after(at, limits.stall_timeout_ms),
            look_by=_next_look(limits, at),
            total_by=instant_of(limits.total_at, now=now, at=at),
            longest=latest_run_end(limits, began, now=now, at=at) or NEVER,
            written=found.written,
            progressed_at=found.progressed_at,
        )
        self._watch(live, watch)

    def extend(self, turn: Turn, uid: RunUid, until: Instant) -> None:
        """Let a worker extend its run time-out, as far as `latest_run_end` allows."""
        turn.extended[uid] = until
        turn.after(partial(self._remember_extended, uid, until))

    def _remember_extended(self, uid: RunUid, until: Instant) -> None:
        live = self._memory.live.get(uid)
        if live is None:
            return
        live.extended_until = max(until, live.extended_until or until)
        if live.watch is not None:
            self._watch(live, live.watch)

    def _watch(self, live: LiveRun, watch: Watch) -> None:
        """Set the deadlines, with the extension that the worker requested."""
        until = live.extended_until
        extended = watch if until is None else watch.extended(until)
        self._memory.live.watch(live, extended)
        if extended is not watch:
            log.debug("run.extended", **live.ids())

    def end_runs(self, turn: Turn) -> None:
        """Begin the ending of each run past a deadline."""
        away = turn.gap > self._memory.settings.poll + AWAY
        lives, due = self._memory.live, []
        for live in lives.watched if away else lives.past_deadlines(turn.at):
            if live.uid in turn.closed or (before := live.watch) is None:
                continue
            watch = _excused(before, live, turn) if away else before
            watch = self._check_output(live, watch, turn.at)
            if watch is not before:
                turn.after(partial(lives.watch, live, watch))
            if watch.due <= turn.at and self._executor.has_answered(since=watch.due):
                due.append((live, watch))
        turn.again |= len(due) > END_BATCH
        if due:
            self._decide(due[:END_BATCH], turn)

    def _decide(self, due: Sequence[tuple[LiveRun, Watch]], turn: Turn) -> None:
        """End runs past a deadline, or set their next ones."""
        runs = self._store.take_runs([live.uid for live, _ in due])
        endings = []
        for live, before in due:
            watch = before.extended(turn.extended.get(live.uid, before.run_by))
            judged: Verdict | Watch | None = watch  # others change it: look again
            if (run := runs.get(live.uid)) is not None:
                judged = None  # watched no longer
                if not (run.ending or run.declared or _leader_exited(run)):
                    judged = self._judge(live, run, watch, turn)
            if isinstance(judged, Verdict):
                endings.append(BegunEnding(live.uid, judged.outcome, judged.reason))
                judged = None
            turn.after(partial(self._memory.live.watch, live, judged))
        if endings:
            self._store.begin_endings(endings, now=turn.now)

    def _judge(self, live: LiveRun, run: OpenRun, watch: Watch, turn: Turn) -> Verdict | Watch:
        limits = live.limits
        if limits.total_at is not None and limits.total_at <= turn.now:
            return Verdict(Outcome.TIMED_OUT, TOTAL_OVER)
        if watch.run_by <= turn.at:
            reason = _reason("run_timeout: not done", limits.run_timeout_ms)
            reason += ", nor within the extension that it requested" if live.extended_until else ""
            return Verdict(Outcome.TIMED_OUT, reason)
        if watch.start_by <= turn.at:
            if run.last_heartbeat_at is None:
                reason = _reason("start_timeout: no heartbeat", limits.start_timeout_ms)
                return Verdict(Outcome.LOST, reason)
            watch = replace(watch, start_by=NEVER)
        if watch.stall_by <= turn.at:
            watch = _progressed(run, watch, turn)
            if watch.stall_by <= turn.at:
                reason = _reason("stall_timeout: no progress, no output", limits.stall_timeout_ms)
                return Verdict(Outcome.STALLED, f"{reason}; {BUFFERED}")
        return replace(watch, total_by=turn.instant_of(limits.total_at))

    def _check_output(self, live: LiveRun, watch: Watch, at: Instant) -> Watch:
        """Check, if due, whether the output has grown since the last look."""
        if at < min(watch.look_by, watch.stall_by):
            return watch
        watch = replace(watch, look_by=_next_look(live.limits, at))
        if (written := self._written(live.uid, live.pid).version) == watch.written:
            return watch
        return replace(watch, stall_by=_after(at, live.limits.stall_timeout_ms), written=written)

    def _found(self, run: OpenRun, now: StoreTime, at: Instant) -> Watch:
        """Return the progress of a run that a new daemon can find.

        The run may seem stalled already: if a clock was set, or nothing is known about the past.
        """
        output, silence = self._written(run.run_uid, run.pid), math.inf
        if run.progressed_at is not None:
            silence = (now - run.progressed_at) / 1000
        silence = max(0.0, min(silence, output.age))
        stall_ms = run.limits.stall_timeout_ms
        return Watch(
            stall_by=NEVER if stall_ms is None else Instant(_after(at, stall_ms) - silence),
            written=output.version,
            progressed_at=run.progressed_at,
        )

    def _written(self, uid: RunUid, pid: int | None) -> OutputState:
        return self._executor.output_state(f"{self._memory.settings.output_dir}/{uid}.log", pid)

    def give_up(self, turn: Turn) -> None:
        """Fail tasks that waited too long; look each poll, when woken, and at the next deadline."""
        if not self.tasks.is_due(turn.at):
            return
        fails_at = self._store.next_failure()
        if fails_at is not None and fails_at <= turn.now:
            given_up = self._store.give_up(limit=GIVE_UP_BATCH, now=turn.now)
            for one in given_up:
                turn.after(partial(self._log_given_up, one))
            turn.again |= len(given_up) == GIVE_UP_BATCH
            turn.looks |= bool(given_up)  # others may wait for them
            fails_at = self._store.next_failure()
        poll_at = turn.at + self._memory.settings.poll
        look_at = min(poll_at, turn.instant_of(fails_at))
        turn.after(partial(self.tasks.set, look_at))

    @staticmethod
    def _log_given_up(one: GivenUp) -> None:
        log.warning(
            "task.timed_out",
            task_id=one.task_id,
            queue=one.queue,
            timeout=one.timeout,
            reason=one.reason,
        )


def _after(begin: Instant, milliseconds: int | None) -> Instant:
    return NEVER if milliseconds is None else Instant(begin + milliseconds / 1000)


def _reason(what: str, milliseconds: int | None) -> str:
    return f"{what} within {Milliseconds(milliseconds or 0)}"


def _next_look(limits: Limits, at: Instant) -> Instant:
    if limits.stall_timeout_ms is None:
        return NEVER
    return Instant(at + max(LEAST_LOOK, limits.stall_timeout_ms / 1000 / LOOKS))


def _progressed(run: OpenRun, watch: Watch, turn: Turn) -> Watch:
    """Return the watch with the progress that the worker has reported since the last look."""
    if run.progressed_at is None or run.progressed_at == watch.progressed_at:
        return watch
    silence = (turn.now - run.progressed_at) / 1000
    by = Instant(_after(turn.at, run.limits.stall_timeout_ms) - max(0.0, silence))
    return replace(watch, stall_by=max(by, watch.stall_by), progressed_at=run.progressed_at)


def _leader_exited(run: OpenRun) -> bool:
    return run.exit_code is not None or run.signal is not None


def _excused(watch: Watch, live: LiveRun, turn: Turn) -> Watch:
    """Return the watch with the deadlines of a silent worker moved by our absence."""
    start_ms, stall_ms = live.limits.start_timeout_ms, live.limits.stall_timeout_ms
    gap_ms = turn.gap * 1000
    if start_ms is not None and watch.start_by < NEVER and gap_ms > start_ms / 2:
        watch = replace(watch, start_by=_after(turn.at, start_ms))
    if stall_ms is not None and gap_ms > stall_ms / 2:
        watch = replace(watch, stall_by=_after(turn.at, stall_ms))
    return watch
