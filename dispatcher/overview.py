"""The state of a dispatcher: the store and a running daemon, read together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dispatcher import control
from dispatcher.config.config import Config
from dispatcher.daemon_report import DaemonReport
from dispatcher.host.node import known_node_id
from dispatcher.model import Leases, Run, Task, TaskState
from dispatcher.obstacles import BY_STATE, FAULTS, DaemonState, Obstacle, Reason, Standing
from dispatcher.store.api import ReaderStore
from dispatcher.store.search import last_run
from dispatcher.times import StoreTime

#: Seconds for which a ready task waits, and nothing starts, though slots are free, before it is
#: called stuck: longer than a daemon takes to start, or an executor to be found silent.
STUCK_AFTER = 30.0

#: Running tasks that a status names.
MOST_RUNNING = 20


@dataclass(frozen=True, slots=True)
class Stuck:
    """Ready tasks that do not start although there is room."""

    tasks: int
    waited: float
    """Seconds that the longest has waited."""
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of node, queues and all tasks."""

    standing: Standing
    counts: Mapping[str, Mapping[TaskState, int]]
    """Tasks in each state, by queue."""
    ready_since: Mapping[str, StoreTime]
    """Since when the longest ready task of each queue is ready."""
    leases: Leases
    running: Sequence[tuple[Task, Run | None]] = ()
    """Tasks that run, at most `MOST_RUNNING`, each with its open run."""
    coming: int = 0
    """Tasks of bulk submits that are accepted and not listed yet."""
    damaged_parts: Sequence[str] = ()
    """Parts of bulk submits that were damaged by hand, and how."""

    def waiting(self) -> Mapping[Obstacle, int]:
        """Return how many tasks are not running, by their nearest obstacle."""
        found: Counter[Obstacle] = Counter()
        for queue, counts in self.counts.items():
            for state, obstacle in BY_STATE.items():
                found[obstacle] += counts.get(state, 0)
            if ready := counts.get(TaskState.READY, 0):
                found[self.standing.queue_obstacles(queue)[0].obstacle] += ready
        return {obstacle: found[obstacle] for obstacle in Obstacle if found[obstacle]}

    def stuck(self) -> Stuck | None:
        """Return the ready tasks that ought to run; None if none waits long, or there is no room.

        A queue that is paused or full, and a daemon that is stopped, are as somebody wanted them.
        """
        standing, report = self.standing, self.standing.report
        if standing.daemon != "running" or report is None or report.is_full:
            return None
        ages = (age for age in (report.uptime_s, report.start_age_s) if age is not None)
        if min(ages, default=0.0) < STUCK_AFTER:  # too soon after a start of daemon or run
            return None
        tasks, longest, because = 0, 0.0, None
        for queue, since in self.ready_since.items():
            waited = (standing.now - since) / 1000
            reason = standing.queue_obstacles(queue)[0]
            if waited < STUCK_AFTER or reason.obstacle not in FAULTS | {Obstacle.TURN_COMES}:
                continue
            tasks += self.counts.get(queue, {}).get(TaskState.READY, 0)
            if waited >= longest:
                longest, because = waited, reason
        return None if because is None else Stuck(tasks, round(longest, 1), because)


def status(store: ReaderStore, config: Config) -> Status:
    """Return the state of everything. Reads every task."""
    with store.snapshot():
        counts, leases = store.counts(), store.leases()
        ready_since = store.ready_since()
        coming, damaged_parts = store.coming(), store.damaged_parts()
        tasks = store.foremost(TaskState.RUNNING, limit=MOST_RUNNING)
        running = [(task, last_run(store, task)) for task in sorted(tasks, key=lambda one: one.id)]
    return Status(
        counts=counts,
        ready_since=ready_since,
        leases=leases,
        running=running,
        standing=standing(store, config),
        coming=coming,
        damaged_parts=damaged_parts,
    )


def standing(store: ReaderStore, config: Config) -> Standing:
    """Return the state of this node, with the running daemon's report."""
    me = known_node_id(config.state_dir)
    with store.snapshot():
        calendar = store.calendar()
        nodes = {node.id: node for node in store.nodes()}
        paused = {one.queue: one for one in store.paused_queues()}
    daemon, report, unreachable = _query_daemon(config)
    queues = config.queues.items()
    return Standing(
        calendar=calendar,
        paused=paused,
        node=nodes.get(me or ""),
        daemon=daemon,
        report=report,
        unreachable=unreachable,
        start_command=config.start_command() if daemon == "not running" else "",
        by_hand={name for name, queue in queues if queue.concurrency == 0},
    )


def _query_daemon(config: Config) -> tuple[DaemonState, DaemonReport | None, str | None]:
    """Return the daemon's state, its report, and why it cannot be reached though it runs."""
    try:
        report = control.report(config)
    except TimeoutError:
        return "not answering", None, None
    except control.ForeignDaemon:
        return "not ours", None, None
    if report is not None:
        return "running", report, None
    unreachable = control.why_unreachable(config)
    return "not running" if unreachable is None else "not answering", None, unreachable
