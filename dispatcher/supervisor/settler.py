"""Closing runs: outcome, the task's next state, and what follows."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from functools import partial

import structlog

from dispatcher import policy, wire
from dispatcher.backoff import Backoff
from dispatcher.execution import BegunEnding, Claim, OpenRun, Settlement
from dispatcher.model import Outcome
from dispatcher.named_limits import of_queue
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.times import Instant, StoreTime
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Seconds that a task waits whose previous run still lives here: first, and at most; doubling.
PREDECESSOR_DELAY = (1.0, 60.0)

#: Settlements on a shared store that are remembered, in case that a failover forgets them.
REMEMBERED = 1_000


class Settler:
    """Settles runs once, then has the executor forget them."""

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._rng = shared.rng
        self._recent: OrderedDict[RunUid, Settlement] = OrderedDict()
        self._postponements: defaultdict[int, Backoff] = defaultdict(
            lambda: Backoff(*PREDECESSOR_DELAY)
        )

    def settle(self, turn: Turn, ended: Iterable[tuple[OpenRun, policy.End]]) -> None:
        """Close runs whose process tree is gone, or that never had a process."""
        settlements, runs = [], []
        for run, end in ended:
            runs.append(run)
            started = turn.pending_starts.pop(run.run_uid, None)
            settlement = self._settlement(turn, run, end, started)
            settlements.append(settlement)
            turn.closed.add(run.run_uid)
            turn.after(partial(self._settled, run, settlement, end, started, turn.at))
        if settlements:
            self._store.settle(settlements, now=turn.now)
            if self._memory.settings.limits:
                self._count_results(turn, zip(runs, settlements, strict=True))

    def _count_results(self, turn: Turn, ended: Iterable[tuple[OpenRun, Settlement]]) -> None:
        """Count how runs ended, for the queues that have a breaker: a success wins."""
        results: dict[str, int] = {}
        for run, one in ended:
            name = of_queue(run.queue)
            rule = self._memory.settings.limits.get(name)
            if rule is None or rule.breaker is None:
                continue
            if one.outcome is Outcome.SUCCEEDED:
                results[name] = 0
            elif policy.is_charged(run, one.outcome) and results.get(name) != 0:
                results[name] = results.get(name, 0) + 1
        if results:
            self._store.record_results(results, now=turn.now)

    def _settlement(
        self, turn: Turn, run: OpenRun, end: policy.End, started: wire.Started | None
    ) -> Settlement:
        if end is None and run.intent is None and run.run_uid in self._recent:
            return self._recent[run.run_uid]  # settled before, which a failover forgot
        settlement = policy.settle(
            run,
            end,
            now=turn.now,
            ended_at=turn.store_time_of(end.exit.at) if isinstance(end, wire.Exited) else turn.now,
            started=(started.pid, turn.store_time_of(started.at)) if started is not None else None,
            rng=self._rng,
        )
        if not isinstance(end, wire.StartFailed) or end.fault is wire.Fault.TASK:
            return settlement
        if end.fault is wire.Fault.HOST:
            turn.claims_blocked = True
            self._record_pause(turn, end.error)
            turn.after(partial(self._pause, end.error, turn.at))
        delay = self._postponements[run.task_id].grow()
        until = StoreTime(turn.now + round(delay * 1000))
        return policy.postponed(settlement, until=until, total_at=run.limits.total_at)

    def hold(self, turn: Turn, claims: Iterable[tuple[Claim, str]]) -> None:
        """Hold the tasks of claims of this turn, each for a reason: they never get a process."""
        endings = [BegunEnding(claim.run_uid, Outcome.HELD, why) for claim, why in claims]
        if endings:
            self._store.begin_endings(endings, now=turn.now)
            runs = self._store.open_runs_among([one.run_uid for one in endings])
            self.settle(turn, [(run, None) for run in runs.values()])

    def remember_started(self, task_id: int, at: Instant) -> None:
        """Remember, after the commit, that the host could start a worker of this task."""
        self._postponements.pop(task_id, None)
        self._host_recovered(len(self._memory.live), at)

    def _settled(
        self,
        run: OpenRun,
        settlement: Settlement,
        end: policy.End,
        started: wire.Started | None,
        at: Instant,
    ) -> None:
        claimed = len(self._memory.live)
        live = self._memory.live.pop(run.run_uid) or LiveRun.of(run)
        self._memory.stranded.pop(run.run_uid, None)
        self._memory.figures.settled[settlement.outcome] += 1
        if self._store.history.timeline:
            self._recent[run.run_uid] = settlement
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        if live.end_sent_at is not None:
            self._memory.figures.kills.observe(at - live.end_sent_at)
        if started is not None:
            live.pid = started.pid
            self._host_recovered(claimed, at)
        log.info(
            "run.settled",
            outcome=settlement.outcome,
            exit_code=settlement.exit_code,
            signal=settlement.signal,
            reason=settlement.run_reason,
            state=settlement.state,
            **live.ids(),
        )
        if isinstance(end, wire.Exited):
            if end.exit.leftovers:
                log.warning("worker.leftover_ended", names=end.exit.leftovers, **live.ids())
            if end.exit.left_alone:
                log.info("worker.leftover_reported", names=end.exit.left_alone, **live.ids())
            self._executor.send(wire.Forget(uid=run.run_uid))

    def _record_pause(self, turn: Turn, error: str) -> None:
        """Write the event of a pause, unless one was begun since a worker could start."""
        pause, living = self._memory.pause, self._memory.live.living
        if not turn.pauses and pause.is_first(living=living):
            turn.pauses = True
            self._store.record_node_paused(self._memory.settings.node_id, error, now=turn.now)

    def _pause(self, error: str, at: Instant) -> None:
        seconds = self._memory.pause.begin(error, living=self._memory.live.living, at=at)
        if seconds is not None:
            log.error("node.paused", reason=error, seconds=seconds)

    def _host_recovered(self, claimed: int, at: Instant) -> None:
        self._memory.figures.started_at = at
        pause = self._memory.pause
        if pause.reason is not None:
            log.info("node.resumed", reason=pause.reason)
        pause.started(claimed=claimed, slots=self._memory.settings.slots)
