"""All runs that this executor knows: started, watched, ended, kept until they are forgotten."""

from collections.abc import Collection, Iterable

from dispatcher import wire
from dispatcher.executor.ending.endings import Endings
from dispatcher.executor.ending.oom_kills import OomKills
from dispatcher.executor.leaders import Leaders
from dispatcher.executor.output.budgets import Budgets
from dispatcher.executor.output.forwarder import Forwarder
from dispatcher.executor.output.quiet_files import QuietFiles
from dispatcher.executor.output.stream import Stream
from dispatcher.executor.outside import Outside
from dispatcher.executor.phases import Phase
from dispatcher.executor.processes.tree import Tree
from dispatcher.executor.records import Forgotten, InheritedRun
from dispatcher.executor.run import TrackedRun
from dispatcher.executor.table import RunTable
from dispatcher.times import NEVER, Instant

#: Seconds between two looks at our children while runs live: dead orphans are reaped, new ones
#: attributed while their parents are still there. One wake-up a second.
SURVEY_INTERVAL = 1.0

#: The same while orphans die in numbers, and how many that is: a storm of forks must not leave
#: the host without pids.
STORM_INTERVAL = 0.05
STORM = 50


class Runs:
    """Decides what each run needs next; never waits for any of them."""

    def __init__(
        self,
        outside: Outside,
        table: RunTable,
        leaders: Leaders,
        tree: Tree,
        *,
        node: str,
        output_dir: str,
    ) -> None:
        self._notices = outside.notices
        self._outputs = outside.outputs
        self._report = report = outside.report
        self._table = table
        self._leaders = leaders
        self._tree = tree
        self._output_dir = output_dir
        kernel = outside.kernel
        self._endings = Endings(kernel, outside.outputs, tree, report)
        self._oom_kills = OomKills(kernel.oom_kills, table.live, report.log)
        self._budgets = Budgets(report.log, QuietFiles(kernel.watch))
        quiet = QuietFiles[Stream](kernel.watch)
        self._forwarder = Forwarder(report.journal, report.log, quiet, node=node)
        self._starts: list[tuple[TrackedRun, wire.Start]] = []
        self._survey_at = Instant(0.0) if tree.may_get_orphans else NEVER

    @property
    def sweeping(self) -> bool:
        """Whether a dead executor's run may still have processes that SIGKILL will end."""
        return any(run.inherited and not run.unkillable for run in self._table.live.values())

    @property
    def due(self) -> Instant:
        """When to act even if nothing happens."""
        if self._table.attention:
            return Instant(0.0)
        due = min(self._report.journal.due, self._forwarder.due)
        if self._table.live:
            return min(due, self._table.due, self._survey_at, self._leaders.due, self._budgets.due)
        return min(due, self._survey_at) if self._tree.may_get_orphans else due

    def reported(self) -> Iterable[wire.RunReport]:
        """Yield each run as a new daemon must know it."""
        for run in self._table.known.values():
            yield wire.RunReport(
                uid=run.uid,
                state=run.state,
                pid=run.pid,
                start_ticks=run.start_ticks,
                exit=run.exit,
                ended_by=run.ended_by,
                until=run.until,
                reason=run.trouble,
            )

    def inherit(self, at: Instant) -> None:
        """Take over the predecessor's runs; what survives of them gets SIGKILL at once."""
        for inherited in self._report.journal.predecessors_runs():
            self._take_over(inherited, at)
        if (damage := self._report.journal.damage) is not None:
            path, lines, first = self._report.journal.path, damage.lines, damage.first
            self._report.log("journal.damaged", path=path, lines=lines, first=first)
        self._compact(at)

    def record_events(self, ready: Collection[int], at: Instant) -> None:
        """Record writes to quiet files and exits of leaders, before any request is handled."""
        self._budgets.record_writes(ready, at)
        self._forwarder.record_writes(ready, at)
        self._leaders.record_exits(ready, at)

    def start(self, start: wire.Start, at: Instant, *, marked: bool) -> None:
        """Start a run in this tick, unless it is known or too late."""
        if start.uid in self._table.known:
            return
        run = TrackedRun.started(start, marked=marked)
        if name := run.passed_deadline(at):
            self._report.start_failed(start, wire.Fault.LATE, f"its deadline {name} has passed")
            return
        if not self._starts:
            self._oom_kills.look(
                at
            )  # what was killed by now was of no run that starts in this tick
        self._survey_at = min(self._survey_at, Instant(at + SURVEY_INTERVAL))
        self._table.add(run)
        self._starts.append((run, start))
        self._report.starting(run, at)

    def end(
        self,
        uid: wire.RunUid,
        reason: str,
        at: Instant,
        *,
        at_once: bool = False,
        longest_grace: float | None = None,
    ) -> bool:
        """Begin to end a run; return whether that is what ends its leader.

        A run that is not known here is of a dead executor whose journal was lost.
        """
        run = self._table.known.get(uid)
        if run is None:
            path = f"{self._output_dir}/{uid}.log"
            inherited = InheritedRun(uid=uid, at=at, output_path=path, held_until=at, marked=True)
            run = self._take_over(inherited, at)
            self._report.journal.append(run.summary(at))
            return False
        if not (run.may_be_killed if at_once else run.may_be_ended):
            return False
        if longest_grace is not None:
            run.kill_grace = min(run.kill_grace, longest_grace)
        begins = run.may_be_ended and run.leader_lives
        if begins:
            run.ended_by = reason
            self._report.ending(run, reason, at)
        if at_once:
            run.kill(at)
        else:
            run.end(at)
        self._table.attention[uid] = run
        return begins

    def end_ourselves(self, uid: wire.RunUid, reason: str, at: Instant) -> None:
        """Begin an ending that the daemon did not request, and report it."""
        if self.end(uid, reason, at):
            state = wire.RunState.ENDING
            self._report.send(wire.Changed(uid=uid, state=state, ended_by=reason))

    def end_all(self, reason: str, at: Instant) -> None:
        for uid in self._table.known:
            self.end_ourselves(uid, reason, at)

    def forget(self, uid: wire.RunUid, at: Instant) -> None:
        """Drop a run that is gone."""
        run = self._table.known.get(uid)
        if run is None:
            return
        if run.phase is not Phase.GONE:
            self._report.log("run.forget_refused", **run.ids, state=run.state)
            return
        if self._forwarder.is_behind(uid):
            run.forget_later = True  # a successor must know how far its output was forwarded
            return
        del self._table.known[uid]
        self._notices.forget(uid)
        self._report.journal.append(Forgotten(uid=uid, at=at))

    def close(self, at: Instant) -> None:
        """Forward the rest of the output of runs that are gone, for a second at most."""
        self._forget_forwarded(self._forwarder.finish(at), at)
        self._report.journal.flush()
        self.release()

    def release(self) -> None:
        """Close the descriptors that keep, watch and forward output."""
        self._outputs.release()
        self._budgets.close()
        self._forwarder.close()

    def act(self, at: Instant, *, all_read: bool) -> None:
        """Do everything that is due: intentions are journaled before, observations after.

        `all_read` is whether nothing that the daemon sent is unread: it may move deadlines.
        """
        self._endings.new_tick()
        self._record_time(at, all_read=all_read)
        journal_error = self._report.journal.flush()
        starts, self._starts = self._starts, []
        for run, start in starts:
            if self._leaders.spawn(run, start, journal_error, at):
                self._keep_output(run, start.output_budget, at)
        attention, self._table.attention = self._table.attention, {}
        self._tree.share_among(len(attention))
        self._oom_kills.judge(attention.values(), at)
        for run in attention.values():
            self._advance(run, at)
        if self._tree.behind:
            self._survey_at = at
        self._leaders.report_due(at)
        self._report.journal.flush()
        if at >= self._report.journal.due:
            self._compact(at)

    def _take_over(self, inherited: InheritedRun, at: Instant) -> TrackedRun:
        run = TrackedRun.taken_over(inherited)
        self._table.known[run.uid] = run
        if run.forwarded is not None:
            self._forwarder.follow(run, None, at)
        if self._endings.take_over(run, inherited, at):
            self._table.live[run.uid] = self._table.attention[run.uid] = run
        else:
            self._forwarder.end(run.uid, at)
        return run

    def _keep_output(self, run: TrackedRun, budget: int | None, at: Instant) -> None:
        if budget is not None:
            self._budgets.watch(run.uid, self._outputs.file(run.output_path), budget, at)
        if run.forwarded is not None:
            self._forwarder.follow(run, self._outputs.file(run.output_path).descriptor, at)

    def _compact(self, at: Instant) -> None:
        summaries = (run.summary(at) for run in self._table.known.values())
        if error := self._report.journal.rewrite(summaries, at):
            self._report.log("journal.write_failed", error=str(error))

    def _record_time(self, at: Instant, *, all_read: bool) -> None:
        for run in self._table.take_due(at):
            self._judge(run, at, all_read=all_read)
        if at >= self._forwarder.due:  # before the budgets drop what it has not read
            self._forget_forwarded(self._forwarder.forward(at), at)
        if at >= self._budgets.due:
            self._budgets.enforce(at)
        if at >= self._survey_at:
            interval = STORM_INTERVAL if self._tree.survey(at) > STORM else SURVEY_INTERVAL
            watched = self._table.live or self._tree.may_get_orphans
            self._survey_at = Instant(at + interval) if watched else NEVER
            self._oom_kills.look(at)
            self._leaders.record_unwatched(at)

    def _forget_forwarded(self, uids: Iterable[wire.RunUid], at: Instant) -> None:
        for uid in uids:
            if self._table.known[uid].forget_later:
                self.forget(uid, at)

    def _judge(self, run: TrackedRun, at: Instant, *, all_read: bool) -> None:
        """Apply what is due to a run, after what it did and sent by now."""
        if run.leader_lives:
            self._leaders.record_exit(run, at)
        if all_read and run.passed_deadline(at):
            for until in self._notices.read_rest(run.uid, at):
                self._table.extend(run.uid, until)
            if name := run.passed_deadline(at):
                self.end_ourselves(run.uid, name, at)
        if min(run.limit, run.look_at) <= at:
            self._table.attention[run.uid] = run

    def _advance(self, run: TrackedRun, at: Instant) -> None:
        self._leaders.report(run.uid)
        if run.exit is not None:
            self._notices.read_rest(run.uid, at)
        if self._endings.advance(run, at):
            self._notices.close(run.uid)
            self._table.record_gone(run)
            self._forwarder.end(run.uid, at)
            self._budgets.drop(run.uid)
            self._outputs.close(run.output_path)
            return
        if self._endings.is_walking(run):
            self._table.attention[run.uid] = run
        self._table.record_due(run)
