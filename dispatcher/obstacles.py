"""The state of a node and its queues, and what keeps tasks from running. Pure."""

import enum
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from dispatcher import limit_views
from dispatcher.calendar import Calendar
from dispatcher.daemon_report import DaemonReport, StrandedReport
from dispatcher.limit_views import LimitView
from dispatcher.model import NO_LABELS, Node, PausedQueue, Run, Task, TaskState
from dispatcher.named_limits import NO_LIMITS
from dispatcher.nodes import NodeView, full_text, missing_text
from dispatcher.times import StoreTime

DaemonState = Literal["running", "not running", "not answering", "not ours"]


class Obstacle(enum.StrEnum):
    """Why a task is neither running nor over: the closed list of `why`, `list` and `status`."""

    HELD = "held"
    PARENTS = "parents"
    NOT_DUE = "not_due"
    QUEUE_PAUSED = "queue_paused"
    DAEMON_NOT_RUNNING = "daemon_not_running"
    DAEMON_NOT_ANSWERING = "daemon_not_answering"
    DAEMON_STOPPING = "daemon_stopping"
    STORE_SILENT = "store_silent"
    NODE_UNREGISTERED = "node_unregistered"
    EXECUTOR_MISSING = "executor_missing"
    EXECUTOR_SILENT = "executor_silent"
    EXECUTOR_INCOMPATIBLE = "executor_incompatible"
    UNKNOWN_RUNS = "unknown_runs"
    FAILED_OVER = "failed_over"
    NODE_LOCKED = "node_locked"
    NODE_PAUSED = "node_paused"
    NODE_DRAINING = "node_draining"
    LABELS_MISSING = "labels_missing"
    QUEUE_FULL = "queue_full"
    KEY_TAKEN = "key_taken"
    LIMIT_CLOSED = "limit_closed"
    LIMIT_FULL = "limit_full"
    LIMIT_RATE = "limit_rate"
    SLOTS_FULL = "slots_full"
    TURN_COMES = "turn_comes"


#: Obstacles that nobody wanted: a node with one of these is degraded.
FAULTS = frozenset(
    {
        Obstacle.STORE_SILENT,
        Obstacle.NODE_UNREGISTERED,
        Obstacle.EXECUTOR_MISSING,
        Obstacle.EXECUTOR_SILENT,
        Obstacle.EXECUTOR_INCOMPATIBLE,
        Obstacle.UNKNOWN_RUNS,
        Obstacle.FAILED_OVER,
        Obstacle.NODE_LOCKED,
        Obstacle.NODE_PAUSED,
    }
)


class Reason(Struct, frozen=True):
    """One obstacle, as text."""

    obstacle: Obstacle
    text: str
    until: StoreTime | None = None
    """When it ends by itself; None: the text names what ends it."""


def key_taken(holder: int | None = None) -> Reason:
    """Return that a task waits for its concurrency key, and for whom."""
    who = "another task" if holder is None else f"task {holder}"
    return Reason(Obstacle.KEY_TAKEN, f"its concurrency key is taken by {who}, which is before it")


class Standing(Struct, frozen=True, kw_only=True):
    """What keeps this node from running tasks, if anything."""

    calendar: Calendar
    """The store's calendar, when it was read."""
    paused: Mapping[str, PausedQueue]
    """Paused queues, by name."""
    node: Node | None
    """This node's row; None if no daemon ever ran here."""
    daemon: DaemonState
    report: DaemonReport | None
    """None while no daemon answers."""
    unreachable: str | None = None
    """Why the daemon cannot be reached, though it runs."""
    start_command: str = "dispatcher run"
    """The command that starts the daemon; "" unless it is not running."""
    by_hand: Container[str] = ()
    """Queues that the configuration leaves to local claims; the daemon's report overrides."""
    limits: Mapping[str, LimitView] = field(default_factory=dict)
    """Named limits, and those of queues, by name."""
    nodes: Sequence[NodeView] = ()
    """All nodes of the store, this one among them."""

    @property
    def now(self) -> StoreTime:
        """The store's time when it was read."""
        return self.calendar.now

    def obstacles(self, task: Task) -> list[Reason]:
        """Return what keeps a task from running, the nearest obstacle first."""
        if task.state is TaskState.SCHEDULED:
            text = f"it is due at {self.calendar.iso(task.run_at)}"
            ahead = Reason(Obstacle.NOT_DUE, text, task.run_at)
            after = self.queue_obstacles(task.queue, task.requires, task.takes, turn=False)
            return [ahead, *after]
        if task.state is TaskState.WAITING:
            parents = "a task" if task.blockers == 1 else f"{task.blockers} tasks"
            return [Reason(Obstacle.PARENTS, f"it waits for {parents}: dispatcher show {task.id}")]
        if task.state is TaskState.READY:
            if task.key_holder is not None:
                return [key_taken(task.key_holder)]
            return self.queue_obstacles(task.queue, task.requires, task.takes)
        held = Reason(Obstacle.HELD, "it waits for an operator")
        return [held] * (task.state is TaskState.HELD)

    def queue_obstacles(
        self,
        queue: str,
        requires: Mapping[str, str] = NO_LABELS,
        takes: Mapping[str, int] = NO_LIMITS,
        *,
        turn: bool = True,
    ) -> list[Reason]:
        """Return what keeps a queue's ready tasks from running; with `turn`, never nothing.

        They require these labels of a node, and take these limits.
        """
        found = [*self._queue_limits(queue, takes)]
        if not self.is_by_hand(queue):  # a daemon has no part in such a queue
            found += self._obstacles_of_nodes(queue, requires)
        if not found and turn:
            found.append(
                Reason(Obstacle.TURN_COMES, "nothing keeps it from running: its turn comes")
            )
        return found

    def elsewhere(self, run: Run) -> NodeView | None:
        """Return the node that a run is on; None if it is this one, unknown, or a local claim."""
        found = (one for one in self.nodes if one.node.id == run.node and not one.is_here)
        return next(found, None)

    @property
    def others(self) -> Sequence[NodeView]:
        """The other nodes that take work."""
        return [one for one in self.nodes if one.takes_work and not one.is_here]

    def _obstacles_of_nodes(self, queue: str, requires: Mapping[str, str]) -> list[Reason]:
        """Return what keeps this node from claiming; nothing if another one has room."""
        own = [one for one in self.nodes if one.is_here]
        lacks_here = bool(requires) and all(one.lacks(requires) for one in own)
        here = [*self.daemon_obstacles(), *self.drain(), *self.faults(), *self._room_limits(queue)]
        able = [one for one in self.others if not one.lacks(requires)]
        if any(one.free for one in able) or not (here or lacks_here):
            return []
        if able:
            return [Reason(Obstacle.SLOTS_FULL, full_text(able)), *here]
        if lacks_here and self.nodes:
            here.insert(0, Reason(Obstacle.LABELS_MISSING, missing_text(self.nodes, requires)))
        return here

    def faults(self) -> Iterator[Reason]:
        """Yield what is wrong with this node, as its daemon reports it."""
        report = self.report
        if self.daemon != "running" or report is None:
            return
        if (silent := report.store_silent_for_s) is not None:
            locked = "another session has held a lock that the daemon needs"
            what = locked if report.store_locked else "the store has not answered the daemon"
            yield Reason(Obstacle.STORE_SILENT, f"{what} for {silent} s")
        if (watched := report.unregistered) is not None:
            yield Reason(Obstacle.NODE_UNREGISTERED, watched)
        else:
            yield from (Reason(Obstacle(kind), text) for kind, text in report.executor_faults())
        if unknown := report.unknown_runs:
            runs = "a run" if unknown == 1 else f"{unknown} runs"
            are = "is" if unknown == 1 else "are"
            text = f"{runs} that the store does not know {are} being ended first"
            yield Reason(Obstacle.UNKNOWN_RUNS, text)
        if report.claims_postponed is not None:
            yield Reason(Obstacle.FAILED_OVER, report.claims_postponed)
        if report.rows_locked is not None and report.rows_locked.node_row:
            yield Reason(Obstacle.NODE_LOCKED, report.rows_locked.describe())
        if report.paused:
            yield self._pause(report.paused, report.paused_for_s)

    def _queue_limits(self, queue: str, takes: Mapping[str, int]) -> Iterator[Reason]:
        if (paused := self.paused.get(queue)) is not None:
            since = self.calendar.iso(paused.paused_at)
            text = (
                f"its queue {queue} is paused since {since}: {paused.reason};"
                f" dispatcher resume {queue}"
            )
            yield Reason(Obstacle.QUEUE_PAUSED, text)
        if self.is_by_hand(queue):
            text = (
                f"its queue {queue} is for local claims here ([queues.{queue}] concurrency = 0):"
                f" dispatcher claim --queue {queue}"
            )
            yield Reason(Obstacle.QUEUE_FULL, text)
        for kind, text, until in limit_views.obstacles(queue, takes, self.limits, self.calendar):
            yield Reason(Obstacle(kind), text, until)

    def is_by_hand(self, queue: str) -> bool:
        """Return whether the daemon leaves a queue to local claims (`concurrency = 0`)."""
        if self.report is not None:
            return self.report.full_queues.get(queue) == 0
        return queue in self.by_hand

    def daemon_obstacles(self) -> Iterator[Reason]:
        """Yield why no daemon claims."""
        if self.daemon == "not running":
            text = f"the daemon is not running: {self.start_command}"
            yield Reason(Obstacle.DAEMON_NOT_RUNNING, text)
        elif self.daemon == "not answering":
            text = self.unreachable or "the daemon is not answering: dispatcher doctor"
            yield Reason(Obstacle.DAEMON_NOT_ANSWERING, text)
        elif self.daemon == "not ours":
            text = "the daemon is another user's, and does not answer this one: dispatcher doctor"
            yield Reason(Obstacle.DAEMON_NOT_ANSWERING, text)
        elif self.report is not None and self.report.stopping:
            text = f"the daemon is stopping ({self.report.stopping}): the next one continues"
            yield Reason(Obstacle.DAEMON_STOPPING, text)

    def drain(self) -> Iterator[Reason]:
        """Yield why an operator lets this node take no more work."""
        if self.node is not None and (why := self.node.draining) is not None:
            name = next((one.name for one in self.nodes if one.is_here), self.node.hostname)
            text = f"this node takes no more work: {why}; dispatcher node resume {name}"
            yield Reason(Obstacle.NODE_DRAINING, text)

    @property
    def missing(self) -> Literal["daemon", "executor"] | None:
        """The process without which no run is ended."""
        if self.daemon != "running":
            return "daemon"
        return None if self.report is None or self.report.is_connected else "executor"

    @property
    def stranded(self) -> Sequence[StrandedReport]:
        """The open runs that no executor knows."""
        return () if self.report is None else self.report.stranded

    def stranded_of(self, task: Task) -> StrandedReport | None:
        """Return the current run of a task if it is stranded."""
        for one in self.stranded:
            if (one.task_id, one.fence, TaskState.RUNNING) == (task.id, task.fence, task.state):
                return one
        return None

    def _pause(self, why: str, seconds: float) -> Reason:
        text = f"this node is paused: {why}"
        if seconds <= 0:
            return Reason(Obstacle.NODE_PAUSED, f"{text}; until a worker starts, one at a time")
        until = StoreTime(self.now + round(seconds * 1000))
        text = f"{text}; one task is tried at {self.calendar.iso(until)}"
        return Reason(Obstacle.NODE_PAUSED, text, until)

    def _room_limits(self, queue: str) -> Iterator[Reason]:
        report = self.report
        if report is None:
            return
        if (most := report.full_queues.get(queue)) is not None:
            text = (
                f"its queue {queue} has {most} running here, as many as [queues.{queue}]"
                " concurrency allows; local claims do not count"
            )
            yield Reason(Obstacle.QUEUE_FULL, text)
        if report.is_full:
            busy = "the one slot is" if report.slots == 1 else f"all {report.slots} slots are"
            text = f"{busy} busy"
            yield Reason(Obstacle.SLOTS_FULL, text)
        elif report.bears is not None and report.busy >= report.bears:
            runs = "one run" if report.bears == 1 else f"{report.bears} runs"
            text = (
                f"this host bears {runs} at once: {report.bears_because};"
                " one more is tried now and then"
            )
            yield Reason(Obstacle.SLOTS_FULL, text)


#: What keeps a task that is not ready from running, by its state.
BY_STATE: Mapping[TaskState, Obstacle] = {
    TaskState.HELD: Obstacle.HELD,
    TaskState.WAITING: Obstacle.PARENTS,
    TaskState.SCHEDULED: Obstacle.NOT_DUE,
}
