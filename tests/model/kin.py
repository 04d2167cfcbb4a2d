"""Tasks that wait for each other, as plain values: each rule is applied to everything.

It knows no daemon: `resolve` passes ends on, and may be told how far a daemon came that died.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from dispatcher.dependency import DependencyState, ParentFailure
from dispatcher.model import FINISHED, TaskState

WAITING, READY, RUNNING = TaskState.WAITING, TaskState.READY, TaskState.RUNNING
HELD, CANCELLED = TaskState.HELD, TaskState.CANCELLED
SUCCEEDED, FAILED = TaskState.SUCCEEDED, TaskState.FAILED

OPEN, MET, BROKEN = DependencyState.OPEN, DependencyState.MET, DependencyState.BROKEN

#: A child and its parent.
Edge = tuple[int, int]


@dataclass
class Kin:
    """Tasks and their dependencies. A task that is due later counts as ready."""

    states: dict[int, TaskState] = field(default_factory=dict)
    rules: dict[int, ParentFailure | None] = field(default_factory=dict)
    edges: dict[Edge, tuple[bool, DependencyState]] = field(default_factory=dict)
    """Whether the parent need only finish, and the state."""
    by_parent: set[int] = field(default_factory=set)
    """Those that are held as a parent did not succeed."""
    intents: dict[int, TaskState] = field(default_factory=dict)
    """Of running tasks: where an operator sends them."""

    def blockers(self, child: int) -> int:
        return sum(state is OPEN for _, state in self._above(child).values())

    def is_broken(self, child: int) -> bool:
        return any(state is BROKEN for _, state in self._above(child).values())

    def judge(self, child: int, above: int) -> DependencyState:
        """Return what the state of a parent means for its child."""
        if self.states[above] not in FINISHED:
            return OPEN
        any_outcome, _ = self.edges[child, above]
        good = any_outcome or self.states[above] is SUCCEEDED
        return MET if good or self.rules[child] is ParentFailure.RUN else BROKEN

    def submit(
        self,
        child: int,
        parents: Mapping[int, bool],
        rule: ParentFailure | None,
        *,
        together: Container[int] = (),
    ) -> None:
        """Add a task; parents that come `together` with it count as unfinished."""
        self.rules[child] = rule
        for above, any_outcome in parents.items():
            self.edges[child, above] = any_outcome, OPEN
            if above not in together:
                self.edges[child, above] = any_outcome, self.judge(child, above)
        self.states[child] = WAITING if self.blockers(child) else READY
        if self.is_broken(child):
            self._stop(child)

    def resolve(self, among: Container[Edge] | None = None) -> None:
        """Pass the ends of tasks on; `among`: only by these dependencies."""
        while True:
            decided = []
            for edge, (any_outcome, state) in self.edges.items():
                if state is OPEN and (among is None or edge in among):
                    now = self.judge(*edge)
                    if now is not OPEN:
                        self.edges[edge] = any_outcome, now
                        decided.append((edge[0], now))
            for child, now in decided:
                if self.states[child] is WAITING and now is BROKEN:
                    self._stop(child)
            for child, _ in decided:
                if self.states[child] is WAITING and not self.blockers(child):
                    self.states[child] = READY
            if not decided:
                return

    def end(self, task: int, state: TaskState) -> None:
        """Let the run of a task end, which would become this."""
        self.states[task] = self.intents.pop(task, state)

    def retry(self, task: int) -> None:
        if self.states[task] not in {FAILED, CANCELLED, HELD}:
            return
        self._waive(task, BROKEN)
        self._go_on(task)
        for (child, above), (any_outcome, state) in self.edges.items():
            idle = self.states[child] not in {RUNNING, SUCCEEDED}
            if above == task and state is BROKEN and idle:
                self.edges[child, above] = any_outcome, OPEN
                if child in self.by_parent and not self.is_broken(child):
                    self.by_parent.discard(child)
                    self.states[child] = WAITING

    def release(self, task: int) -> None:
        if self.states[task] is HELD and self.is_broken(task) and task not in self.by_parent:
            self._stop(task)
        elif self.states[task] is HELD:
            self._waive(task, BROKEN)
            self._go_on(task)
        elif self.states[task] is WAITING:
            self._waive(task, OPEN)
            self.states[task] = READY

    def hold(self, task: int) -> None:
        self._operate(task, HELD)

    def cancel(self, task: int) -> None:
        self._operate(task, CANCELLED)

    def may_be_deleted(self, task: int) -> bool:
        """Return whether a task has finished that no unfinished child needs."""
        children = (child for child, above in self.edges if above == task)
        return self.states[task] in FINISHED and all(
            self.states[one] in FINISHED for one in children
        )

    def delete(self, task: int) -> None:
        del self.states[task]
        self.edges = {edge: kept for edge, kept in self.edges.items() if edge[0] != task}

    def _above(self, child: int) -> dict[Edge, tuple[bool, DependencyState]]:
        return {edge: kept for edge, kept in self.edges.items() if edge[0] == child}

    def _operate(self, task: int, state: TaskState) -> None:
        if self.states[task] is RUNNING:
            self.intents[task] = state
        elif self.states[task] not in FINISHED:
            self.states[task] = state
            self.by_parent.discard(task)

    def _stop(self, child: int) -> None:
        if self.rules[child] is ParentFailure.CANCEL:
            self.states[child] = CANCELLED
        else:
            self.states[child] = HELD
            self.by_parent.add(child)

    def _go_on(self, task: int) -> None:
        self.by_parent.discard(task)
        self.states[task] = WAITING if self.blockers(task) else READY

    def _waive(self, task: int, state: DependencyState) -> None:
        for edge, (any_outcome, now) in self._above(task).items():
            if now is state:
                self.edges[edge] = any_outcome, MET
