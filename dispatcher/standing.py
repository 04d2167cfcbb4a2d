"""How a node and its queues stand, and what keeps tasks from running.

Judged from what the store knows and what a running daemon says; nothing is asked here.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dispatcher.calendar import UNCHANGED, Calendar
from dispatcher.daemon_report import DaemonReport, ExecutorState
from dispatcher.model import Leases, Node, PausedQueue, Task, TaskState
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime

#: Seconds for which a ready task waits, and nothing starts, though slots are free, before it is
#: called stuck: longer than a daemon takes to start, or an executor to be found silent.
STUCK_AFTER = 30.0


#: Milliseconds for which it is told that the host's clock was set.
DAY = 86_400_000


class Obstacle(enum.StrEnum):
    """Why a task is not running and not over: a closed list. `why`, `list` and `status` name it."""

    HELD = "held"
    NOT_DUE = "not_due"
    QUEUE_PAUSED = "queue_paused"
    DAEMON_NOT_RUNNING = "daemon_not_running"
    DAEMON_NOT_ANSWERING = "daemon_not_answering"
    DAEMON_STOPPING = "daemon_stopping"
    STORE_SILENT = "store_silent"
    EXECUTOR_MISSING = "executor_missing"
    EXECUTOR_SILENT = "executor_silent"
    EXECUTOR_INCOMPATIBLE = "executor_incompatible"
    UNKNOWN_RUNS = "unknown_runs"
    NODE_PAUSED = "node_paused"
    QUEUE_FULL = "queue_full"
    SLOTS_FULL = "slots_full"
    TURN_COMES = "turn_comes"


#: What nobody asked for: a node with one of these is degraded.
FAULTS = frozenset(
    {
        Obstacle.STORE_SILENT,
        Obstacle.EXECUTOR_MISSING,
        Obstacle.EXECUTOR_SILENT,
        Obstacle.EXECUTOR_INCOMPATIBLE,
        Obstacle.UNKNOWN_RUNS,
        Obstacle.NODE_PAUSED,
    }
)


def recent_step_text(calendar: Calendar) -> str | None:
    """Say that the host's clock was set within the last day; None if it was not."""
    step = calendar.last_step(within_ms=DAY)
    if step is None:
        return None
    way = "ahead" if step.step_ms > 0 else "back"
    size = Milliseconds(round(abs(step.step_ms), -3))
    return f"the host's clock was set {way} by {size} at {calendar.iso(step.since)}; {UNCHANGED}"


@dataclass(frozen=True, slots=True)
class Reason:
    """One obstacle, in words."""

    obstacle: Obstacle
    text: str
    until: StoreTime | None = None
    """When it ends by itself; None: somebody or something else ends it, as the text says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrandedRun:
    """An open run that no executor knows."""

    task_id: int
    fence: int
    why: str
    """What lives of it, or may."""
    is_ours: bool
    """Whether it is of this node: then its executor ends what it finds of it."""
    awaited: bool
    """Whether the executor has to be back first."""

    def describe(self, what: str) -> str:
        """Return who ends what lives of a run, which is called so, and what that is."""
        if not self.is_ours:
            return f"no executor ends {what}: {self.why}"
        when = " once it is back" if self.awaited else ""
        return f"the executor does not know {what}, and ends what lives of it{when}: {self.why}"


def stranded_runs(report: DaemonReport) -> list[StrandedRun]:
    """Return the open runs that no executor knows, as a daemon reports them."""
    return [
        StrandedRun(
            task_id=one.task_id,
            fence=one.fence,
            why=one.why,
            is_ours=one.is_ours,
            awaited=not report.is_connected,
        )
        for one in report.stranded
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What keeps this node from running tasks, or does not."""

    calendar: Calendar
    """Of the store, with its time when it was asked."""
    paused: Mapping[str, PausedQueue]
    """Queues from which nobody claims, by name."""
    node: Node | None
    """This node's row; None if no daemon ever ran here."""
    daemon: Literal["running", "not running", "not answering", "not ours"]
    report: DaemonReport | None
    """Of the running daemon; None while none answers."""
    unreachable: str | None = None
    """Why the daemon cannot be asked, though it runs."""
    by_hand: Container[str] = ()
    """Queues that the configuration leaves to claims by hand; a running daemon knows it better."""

    @property
    def now(self) -> StoreTime:
        """The store's time when it was asked."""
        return self.calendar.now

    def obstacles(self, task: Task) -> list[Reason]:
        """Return all that stands before a task that is not running, the nearest first."""
        if task.state is TaskState.SCHEDULED:
            text = f"it is due at {self.calendar.iso(task.run_at)}"
            ahead = Reason(Obstacle.NOT_DUE, text, task.run_at)
            return [ahead, *self.queue_obstacles(task.queue, turn=False)]
        if task.state is TaskState.READY:
            return self.queue_obstacles(task.queue)
        return [Reason(AT_REST[task.state], _TEXTS[task.state])] if task.state in _TEXTS else []

    def queue_obstacles(self, queue: str, *, turn: bool = True) -> list[Reason]:
        """Return what stands before the ready tasks of a queue; if nothing does, their turn."""
        found = [*self._of_queue(queue)]
        if not self._is_by_hand(queue):  # else no daemon has any part in it
            found += [*self.daemon_obstacles(), *self.faults(), *self._of_room(queue)]
        if not found and turn:
            found.append(Reason(Obstacle.TURN_COMES, "nothing stands in its way: its turn comes"))
        return found

    def faults(self) -> Iterator[Reason]:
        """Yield what is wrong with this node, as its daemon says."""
        report = self.report
        if self.daemon != "running" or report is None:
            return
        if (silent := report.store_silent_for_s) is not None:
            text = f"the store has not answered the daemon for {silent} s"
            yield Reason(Obstacle.STORE_SILENT, text)
        yield from self._of_executor(report)
        if unknown := report.unknown_runs:
            text = f"{unknown} runs that the store does not know are being ended first"
            yield Reason(Obstacle.UNKNOWN_RUNS, text)
        if report.paused:
            yield self._pause(report.paused, report.paused_for_s)

    def _of_executor(self, report: DaemonReport) -> Iterator[Reason]:
        nothing = "nothing starts or ends"
        if (other := report.executor_incompatible) is not None:
            text = (
                f"the executor, pid {other.pid}, speaks version {other.version},"
                f" {other.wanted} is wanted; {nothing} until you restart it, when nothing runs"
            )
            yield Reason(Obstacle.EXECUTOR_INCOMPATIBLE, text)
        elif report.executor is ExecutorState.SILENT:
            yield Reason(
                Obstacle.EXECUTOR_SILENT, f"the executor is silent; {nothing} until it answers"
            )
        elif not report.is_connected:
            text = "the executor is missing, and the daemon waits for it"
            if (last_error := report.executor_error) is not None:
                text = f"the executor exits: {last_error}"
            yield Reason(Obstacle.EXECUTOR_MISSING, f"{text}; {nothing} until it runs")

    def _of_queue(self, queue: str) -> Iterator[Reason]:
        if (paused := self.paused.get(queue)) is not None:
            since = self.calendar.iso(paused.paused_at)
            text = (
                f"its queue {queue} is paused since {since}: {paused.reason};"
                f" dispatcher resume {queue}"
            )
            yield Reason(Obstacle.QUEUE_PAUSED, text)
        if self._is_by_hand(queue):
            text = (
                f"its queue {queue} is for claims by hand here ([queues.{queue}] concurrency = 0):"
                f" dispatcher claim --queue {queue}"
            )
            yield Reason(Obstacle.QUEUE_FULL, text)

    def _is_by_hand(self, queue: str) -> bool:
        if self.report is not None:
            return self.report.full_queues.get(queue) == 0
        return queue in self.by_hand

    def daemon_obstacles(self) -> Iterator[Reason]:
        """Yield whether no daemon is there that would claim."""
        if self.daemon == "not running":
            text = "the daemon is not running: dispatcher run"
            yield Reason(Obstacle.DAEMON_NOT_RUNNING, text)
        elif self.daemon == "not answering":
            text = self.unreachable or "the daemon is not answering: dispatcher doctor"
            yield Reason(Obstacle.DAEMON_NOT_ANSWERING, text)
        elif self.daemon == "not ours":
            text = "the daemon is another user's, and does not answer this one: dispatcher doctor"
            yield Reason(Obstacle.DAEMON_NOT_ANSWERING, text)
        elif self.report is not None and self.report.stopping:
            text = f"the daemon is stopping ({self.report.stopping}): the next one goes on"
            yield Reason(Obstacle.DAEMON_STOPPING, text)

    @property
    def missing(self) -> Literal["daemon", "executor"] | None:
        """Who would end a run and does not: an end that has not begun waits for it."""
        if self.daemon != "running":
            return "daemon"
        return None if self.report is None or self.report.is_connected else "executor"

    @property
    def stranded(self) -> list[StrandedRun]:
        """The open runs that no executor knows."""
        return [] if self.report is None else stranded_runs(self.report)

    def stranded_of(self, task: Task) -> StrandedRun | None:
        """Return the present run of a task if it is stranded, and not an earlier one."""
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

    def _of_room(self, queue: str) -> Iterator[Reason]:
        report = self.report
        if report is None:
            return
        if (most := report.full_queues.get(queue)) is not None:
            text = (
                f"its queue {queue} has {most} running here, as many as [queues.{queue}]"
                " concurrency allows; claims made by hand do not count"
            )
            yield Reason(Obstacle.QUEUE_FULL, text)
        if report.is_full:
            text = f"all {report.slots} slots are busy"
            yield Reason(Obstacle.SLOTS_FULL, text)
        elif report.bears is not None and report.busy >= report.bears:
            text = (
                f"this host bears {report.bears} runs at once: {report.bears_because};"
                " one more is tried now and then"
            )
            yield Reason(Obstacle.SLOTS_FULL, text)


@dataclass(frozen=True, slots=True)
class Stuck:
    """Ready tasks that nothing lets run, though there is room for them."""

    tasks: int
    waited: float
    """Seconds."""
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How things stand, counted over all tasks."""

    standing: Standing
    counts: Mapping[str, Mapping[TaskState, int]]
    """How many tasks are in each state, by queue."""
    ready_since: Mapping[str, StoreTime]
    """Since when the ready task of each queue that has waited longest is ready."""
    leases: Leases
    coming: int = 0
    """How many tasks of bulk submits are accepted and not listed yet."""
    damaged_parts: Sequence[str] = ()
    """Which of their parts were damaged by hand, and how."""

    def waiting(self) -> Mapping[Obstacle, int]:
        """Return how many tasks are not running by the nearest obstacle; none are left out."""
        found: Counter[Obstacle] = Counter()
        for queue, counts in self.counts.items():
            for state, obstacle in AT_REST.items():
                found[obstacle] += counts.get(state, 0)
            if ready := counts.get(TaskState.READY, 0):
                found[self.standing.queue_obstacles(queue)[0].obstacle] += ready
        return {obstacle: found[obstacle] for obstacle in Obstacle if found[obstacle]}

    def stuck(self) -> Stuck | None:
        """Return the ready tasks that ought to run; None if there is no room, or none waits long.

        A queue that is paused or full, and a daemon that is stopped, are as somebody wanted them.
        """
        standing, report = self.standing, self.standing.report
        if standing.daemon != "running" or report is None or report.is_full:
            return None
        ages = (age for age in (report.uptime_s, report.start_age_s) if age is not None)
        if min(ages, default=0.0) < STUCK_AFTER:  # this daemon started something lately
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


#: What keeps a task from running that is not ready, by its state.
AT_REST: Mapping[TaskState, Obstacle] = {
    TaskState.HELD: Obstacle.HELD,
    TaskState.SCHEDULED: Obstacle.NOT_DUE,
}

_TEXTS: Mapping[TaskState, str] = {
    TaskState.HELD: "it waits for an operator",
}
