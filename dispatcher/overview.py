"""The state of a dispatcher: the store and a running daemon, read together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from dispatcher import control
from dispatcher.calendar import UNCHANGED, Calendar
from dispatcher.config.config import Config
from dispatcher.daemon_report import DaemonReport
from dispatcher.host.node import known_node_id
from dispatcher.limit_views import LimitView
from dispatcher.model import Leases, Run, Task, TaskState
from dispatcher.named_limits import of_queue
from dispatcher.nodes import Requiring, viewed
from dispatcher.obstacles import (
    BY_STATE,
    FAULTS,
    DaemonState,
    Obstacle,
    Reason,
    Standing,
    key_taken,
)
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.api import ReaderStore
from dispatcher.store.schema import is_shared
from dispatcher.store.search import last_run
from dispatcher.times import StoreTime

#: Seconds for which a ready task waits, and nothing starts, though slots are free, before it is
#: called stuck: longer than a daemon takes to start, or an executor to be found silent.
STUCK_AFTER = 30.0

#: Milliseconds for which a step of the host's clock is reported.
DAY = 86_400_000

#: Running tasks that a status names.
MOST_RUNNING = 20

#: Groups of tasks with the same queue and needs that are counted by themselves.
MOST_GROUPS = 200


class Stuck(Struct, frozen=True):
    """Ready tasks that do not start although there is room."""

    tasks: int
    waited: float
    """Seconds that the longest has waited."""
    reason: Reason


class Status(Struct, frozen=True, kw_only=True):
    """The state of node, queues and all tasks."""

    standing: Standing
    counts: Mapping[str, Mapping[TaskState, int]]
    """Tasks in each state, by queue."""
    ready_since: Mapping[str, StoreTime]
    """Since when the longest ready task of each queue is ready, those of `requiring` left out."""
    requiring: Sequence[Requiring] = ()
    """Ready tasks that need more than a slot; they count in `counts` too."""
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
            requiring = [one for one in self.requiring if one.queue == queue]
            for one in requiring:
                found[self._nearest(one).obstacle] += one.tasks
            ready = counts.get(TaskState.READY, 0) - sum(one.tasks for one in requiring)
            if ready > 0:
                found[self.standing.queue_obstacles(queue)[0].obstacle] += ready
        return {obstacle: found[obstacle] for obstacle in Obstacle if found[obstacle]}

    def oldest_ready(self) -> Mapping[str, StoreTime]:
        """Return since when the longest ready task of each queue is ready."""
        oldest: dict[str, StoreTime] = {}
        for group in self._ready():
            oldest[group.queue] = min(group.since, oldest.get(group.queue, group.since))
        return oldest

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
        for group in self._ready():
            waited = (standing.now - group.since) / 1000
            reason = self._nearest(group)
            if waited < STUCK_AFTER or reason.obstacle not in FAULTS | {Obstacle.TURN_COMES}:
                continue
            tasks += group.tasks
            if waited >= longest:
                longest, because = waited, reason
        return None if because is None else Stuck(tasks, round(longest, 1), because)

    def _nearest(self, group: Requiring) -> Reason:
        if group.behind:
            return key_taken()
        return self.standing.queue_obstacles(group.queue, group.requires, group.takes)[0]

    def _ready(self) -> Iterator[Requiring]:
        """Yield the ready tasks by queue and needs."""
        yield from self.requiring
        for queue, since in self.ready_since.items():
            tasks = self.counts.get(queue, {}).get(TaskState.READY, 0)
            tasks -= sum(one.tasks for one in self.requiring if one.queue == queue)
            yield Requiring(queue=queue, tasks=tasks, since=since)


def status(store: ReaderStore, config: Config) -> Status:
    """Return the state of everything. Reads every task."""
    with store.snapshot():
        counts, leases = store.counts(), store.leases()
        requiring = store.requiring(limit=MOST_GROUPS)
        ready_since = store.ready_since(anywhere=bool(requiring))
        coming, damaged_parts = store.coming(), store.damaged_parts()
        tasks = store.foremost(TaskState.RUNNING, limit=MOST_RUNNING)
        running = [(task, last_run(store, task)) for task in sorted(tasks, key=lambda one: one.id)]
    return Status(
        counts=counts,
        ready_since=ready_since,
        requiring=requiring,
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
        nodes, running = store.nodes(), store.running_by_node()
        paused = {one.queue: one for one in store.paused_queues()}
        limits = _limits(store, config, calendar.now)
    daemon, report, unreachable = _query_daemon(config)
    views = viewed(
        nodes,
        running,
        here=me,
        is_up=daemon == "running",
        is_shared=is_shared(config.store_url),
        now=calendar.now,
    )
    queues = config.queues.items()
    return Standing(
        calendar=calendar,
        paused=paused,
        node=next((node for node in nodes if node.id == me), None),
        daemon=daemon,
        report=report,
        unreachable=unreachable,
        start_command=config.start_command() if daemon == "not running" else "",
        by_hand={name for name, queue in queues if queue.concurrency == 0},
        limits=limits,
        nodes=views,
    )


def _limits(store: ReaderStore, config: Config, now: StoreTime) -> Mapping[str, LimitView]:
    """Return the named limits, and those of queues on all nodes."""
    rules = {name: one.rule for name, one in config.limits.items()}
    of_queues = {
        queue: rule
        for queue, settings in config.queues.items()
        if (rule := settings.rule) is not None
    }
    rules |= {of_queue(queue): rule for queue, rule in of_queues.items()}
    found = dict(store.limit_views(rules, now=now))
    for queue in of_queues:
        view = found[of_queue(queue)]
        found[view.name] = replace(view, running=store.running_in(queue))
    return found


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


def recent_step_text(calendar: Calendar) -> str | None:
    """Return that the host's clock was set within the last day; None if it was not."""
    step = calendar.last_step(within_ms=DAY)
    if step is None:
        return None
    way = "ahead" if step.step_ms > 0 else "back"
    size = Milliseconds(round(abs(step.step_ms), -3))
    return f"the host's clock was set {way} by {size} at {calendar.iso(step.since)}; {UNCHANGED}"
