"""A node that runs a random graph of tasks in virtual time, while operators and death interfere.

The real supervisor over a real store; workers end as their lot says. The daemon dies before or
after any of its commits. `Kin` is told what was done, and says what must have become of each task.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from dispatcher.dependency import DependencyState, ParentFailure, TaskKey
from dispatcher.model import TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.api import Store
from dispatcher.store.sql import SqlStore
from dispatcher.times import StoreTime
from tests.crash.mortal import Died
from tests.model.kin import FAILED, HELD, READY, RUNNING, SUCCEEDED, WAITING, Edge, Kin
from tests.simulation import SETTINGS, World

SLOTS = 20

#: How runs end, and how often: success, failure, a hold.
LOTS = (*(0,) * 10, *(1,) * 4, 78)

#: States of a store's task that are one in the model.
SAME = {TaskState.SCHEDULED: READY}

#: States of tasks that only an operator moves on.
STOPPED = {FAILED, HELD, TaskState.CANCELLED}

EDGES = "SELECT task_id, parent_id, state FROM dependencies"


class Mortal:
    """A store whose daemon dies before or after the commit of one of its next transactions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lives: float = float("inf")
        """Transactions that it still commits."""
        self.commits_last = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        self.lives -= 1
        with self._store.transaction() as now:
            yield now
            if self.lives < 0 and not self.commits_last:
                raise Died
        if self.lives < 0:
            raise Died


@dataclass
class Family:
    """The node, the model, and what is on its way from one to the other."""

    seed: int
    size: int
    make: Callable[..., World] = World
    kin: Kin = field(default_factory=Kin)
    attempts: dict[int, int] = field(default_factory=dict)
    """Those that a task has left."""
    ended: dict[int, int] = field(default_factory=dict)
    """Exit codes of runs whose end may not be recorded yet."""
    deaths: int = 0
    alive: bool = True

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.world = self.make(settings=replace(SETTINGS, slots=SLOTS), seed=self.seed)
        assert isinstance(self.world.store, SqlStore)
        self.store = self.world.store
        self.mortal = Mortal(self.store)
        self.world.store = self.mortal  # type: ignore[assignment]
        self.world.fresh_supervisor()
        self.world.store = self.store

    # The story ----------------------------------------------------------------------------------

    def run(self) -> None:
        self.world.executor.greet()
        self.settle()
        acts = (
            *(self.submit,) * 3,
            *(self.end_runs,) * 6,
            *(self.operate,) * 3,
            *(self.wait, self.prune, self.die, self.die),
        )
        while len(self.attempts) < self.size:
            self.rng.choice(acts)()
            if not self.alive and self.rng.random() < 1 / 4:
                self.begin_again()
        self.begin_again()
        while {READY, RUNNING} & {*self.kin.states.values()}:
            self.end_runs()
            self.wait()
        self.judge_the_end()

    def settle(self) -> None:
        """Let the daemon do what it can, unless it dies, and the model what the daemon did."""
        try:
            if self.alive:
                self.world.settle_down()
        except Died:
            self.alive = False
            self.deaths += 1
        self.learn()

    def begin_again(self) -> None:
        """Start a daemon, which lives until the next time to die."""
        self.mortal.lives = float("inf")
        self.alive = True
        self.world.store = self.mortal  # type: ignore[assignment]
        self.world.restart()
        self.world.store = self.store
        self.learn()

    # What is done ---------------------------------------------------------------------------------

    def submit(self) -> None:
        """Submit some tasks, of which each may wait for some that came before."""
        known = sorted(self.kin.states)[-30:]
        tasks: list[NewTask] = []
        named: list[dict[int, bool]] = []
        first = max(self.attempts, default=0) + 1
        for place in range(self.rng.randint(1, 6)):
            before = [*known, *range(first, first + place)]
            chosen = self.rng.sample(before, k=min(len(before), self.rng.randint(0, 4)))
            parents = {one: self.rng.random() < 0.3 for one in chosen}
            tasks.append(self._task(first + place, parents))
            named.append(parents)
        with self.store.transaction() as now:
            made = [one.task_id for one in self.store.submit(tasks, now=now)]
        assert made == [*range(first, first + len(tasks))]
        for task_id, task, parents in zip(made, tasks, named, strict=True):
            self.attempts[task_id] = task.max_attempts
            self.kin.submit(task_id, parents, task.on_parent_failure, together=made)
        self.settle()

    def _task(self, number: int, parents: dict[int, bool]) -> NewTask:
        names = {
            one: TaskKey("q", f"k{one}") if self.rng.random() < 0.5 else one for one in parents
        }
        names |= {one: TaskKey("q", f"k{one}") for one in parents if one not in self.kin.states}
        return NewTask(
            command=("work",),
            queue="q",
            key=f"k{number}",
            max_attempts=self.rng.choice((1, 1, 2)),
            lease_ttl_ms=60_000,
            backoff_min_ms=2_000,
            backoff_max_ms=9_000,
            max_orphans=10**6,
            after=tuple(names[one] for one in parents if not parents[one]),
            after_any=tuple(names[one] for one in parents if parents[one]),
            on_parent_failure=self.rng.choice((None, *ParentFailure)),
        )

    def end_runs(self) -> None:
        """Let some runs end, which the executor reports now, or to the next daemon."""
        living = [task_id for task_id in self._living() if task_id not in self.ended]
        for task_id in self.rng.sample(living, k=min(len(living), self.rng.randint(1, 4))):
            self.ended[task_id] = self.rng.choice(LOTS)
            self.world.executor.gone(
                self.world.uid(task_id), self.ended[task_id], at=self.world.at()
            )
        self.settle()

    def operate(self) -> None:
        """Do what an operator does, whether a daemon runs or not."""
        if not self.kin.states:
            return
        last = sorted(self.kin.states)[-60:]
        stopped = [one for one in last if self.kin.states[one] in STOPPED]
        task_id = self.rng.choice(self.rng.choice((last, stopped or last)))
        verbs = ["cancel", "hold"]
        if self.kin.states[task_id] is not RUNNING:
            verbs += ["release", "retry", "release", "retry"]
        verb = self.rng.choice(verbs)
        why = ("why",) if verb in ("cancel", "hold") else ()
        with self.store.transaction() as now:
            getattr(self.store, verb)(task_id, *why, now=now)
        if verb == "retry" and self.kin.states[task_id] in STOPPED:
            self.attempts[task_id] = self._max_attempts(task_id)
        getattr(self.kin, verb)(task_id)
        self.settle()

    def wait(self) -> None:
        if self.alive:
            try:
                self.world.run_for(10)
            except Died:
                self.alive = False
                self.deaths += 1
            self.learn()
        else:
            self.world.elapsed += 10

    def prune(self) -> None:
        if not self.alive or not self.kin.states:
            return
        task_id = self.rng.choice([*self.kin.states])
        may_be = self.kin.may_be_deleted(task_id)
        with self.store.transaction():
            pruned = self.store.prune_each([task_id], TaskFilter(), limit=100)
        assert pruned.tasks == may_be, f"{task_id}: {self.kin.states[task_id]}"
        if may_be:
            self.kin.delete(task_id)

    def die(self) -> None:
        """Die soon: with the next transactions, before or after the commit."""
        if self.alive:
            self.mortal.lives = self.rng.randint(0, 3)
            self.mortal.commits_last = self.rng.random() < 0.5

    # What is compared -----------------------------------------------------------------------------

    def learn(self) -> None:
        """Tell the model what the daemon recorded, and compare."""
        found = self._states()
        for task_id in [one for one in self.ended if found[one] is not RUNNING]:
            self._end(task_id, self.ended.pop(task_id))
        for task_id, state in found.items():
            if self.kin.states[task_id] is RUNNING is not state:  # it died between claim and start
                assert task_id not in self.world.executor.runs
                self.kin.end(task_id, READY)
        self.kin.resolve(None if self.alive else self._decided())
        for task_id, state in found.items():
            if self.kin.states[task_id] is READY and state is RUNNING:
                self.kin.states[task_id] = RUNNING
        wrong = {
            one: (self.kin.states[one], state)
            for one, state in found.items()
            if self.kin.states[one] is not state
        }
        assert {} == wrong, f"seed {self.seed}: the model, the store"

    def _end(self, task_id: int, code: int) -> None:
        if code == 1 and task_id not in self.kin.intents:
            self.attempts[task_id] -= 1
        if code == 1:
            state = READY if self.attempts[task_id] else FAILED
        else:
            state = HELD if code else SUCCEEDED
        self.kin.end(task_id, state)

    def _decided(self) -> set[Edge]:
        """Return the dependencies that a daemon has decided, which died before it was done."""
        return {
            (child, above)
            for child, above, state in self._sql(EDGES)
            if state != DependencyState.OPEN
        }

    def judge_the_end(self) -> None:
        """Nothing goes on, each task has a reason, and all that is kept besides is right."""
        edges = {(child, above): state for child, above, state in self._sql(EDGES)}
        assert edges == {edge: state.value for edge, (_, state) in self.kin.edges.items()}
        with self.store.snapshot():
            assert {} == self.store.wrong_counts()
            for task_id, state in self.kin.states.items():
                task = self.store.task(task_id)
                assert task is not None
                assert task.reason
                assert (task.blockers or 0) == self.kin.blockers(task_id)
                assert (state is WAITING) <= bool(task.blockers)
                events = [one for one in self.store.task_events(task_id) if one.after is not None]
                assert [one.after for one in events[:-1]] == [one.before for one in events[1:]]
                assert events[-1].after is task.state
        assert {} == self.world.executor.runs

    def _states(self) -> dict[int, TaskState]:
        rows = self._sql("SELECT id, state FROM tasks")
        states = ((task_id, TaskState(state)) for task_id, state in rows)
        return {task_id: SAME.get(state, state) for task_id, state in states}

    def _living(self) -> list[int]:
        """Return the tasks whose runs the executor has."""
        known = [*self.world.executor.runs]
        rows = self._sql("SELECT id, run_uid FROM tasks WHERE state = 'running' ORDER BY id")
        return [task_id for task_id, uid in rows if uid in known]

    def _max_attempts(self, task_id: int) -> int:
        return self.world.task(task_id).max_attempts

    def _sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.store.snapshot():
            return self.store.engine.rows(statement)
