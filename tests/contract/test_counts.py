"""The kept counts are always what counting each row would give, whoever changes the rows."""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import overview
from dispatcher.config.config import Config, load
from dispatcher.model import Outcome, TaskFilter, TaskState
from dispatcher.store.glance import glance
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import EMBEDDED, NODE, NOW, OneByOne, later, new_task

ENDS = (
    (Outcome.SUCCEEDED, TaskState.SUCCEEDED),
    (Outcome.FAILED, TaskState.FAILED),
    (Outcome.FAILED, TaskState.SCHEDULED),
    (Outcome.RELEASED, TaskState.READY),
    (Outcome.HELD, TaskState.HELD),
    (Outcome.CANCELLED, TaskState.CANCELLED),
)


class Undone(Exception):
    """Rolls a transaction back."""


def counted(store: OneByOne) -> dict[str, dict[str, int]]:
    """Count each row."""
    found: dict[str, dict[str, int]] = {}
    with store.raw.transaction():
        rows = store.sql("SELECT queue, state, count(*) FROM tasks GROUP BY queue, state")
    for queue, state, many in rows:
        found.setdefault(queue, {})[state] = many
    return found


def outcomes(store: OneByOne) -> dict[str, int]:
    with store.raw.transaction():
        return dict(
            store.sql(
                "SELECT outcome, count(*) FROM runs WHERE outcome IS NOT NULL GROUP BY outcome"
            )
        )


def agree(store: OneByOne) -> None:
    """Assert that the kept counts are those of the rows."""
    assert counted(store) == store.counts()
    assert outcomes(store) == store.outcomes()
    assert {} == store.wrong_counts()


def by_hand(store: OneByOne, statement: str) -> None:
    with store.raw.transaction():
        store.raw.engine.change(statement)


class Day:
    """All that changes tasks and runs, at random."""

    def __init__(self, store: OneByOne, seed: int) -> None:
        self._store, self._random = store, random.Random(seed)
        self._now = NOW

    def go_on(self) -> None:
        do = self._random.choice(
            (
                *(self.submit, self.submit, self.claim, self.claim_local, self.settle, self.due),
                *(self.operate, self.edit, self.prune, self.prune_one, self.undo),
            )
        )
        self._now = later(self._now - NOW + 1)
        do()

    def submit(self) -> None:
        one = self._random
        wanted = [
            new_task(
                queue=one.choice("abc"),
                delay_ms=one.choice((0, 5)),
                queue_timeout_ms=one.choice((None, 20)),
            )
            for _ in range(one.randrange(1, 5))
        ]
        self._store.submit(wanted, now=self._now)

    def claim(self) -> None:
        self._store.take(self._random.choice("abc"), limit=3, now=self._now)

    def claim_local(self) -> None:
        self._store.claim_local("a", owner="local:1", output_dir="/out", now=self._now)

    def settle(self) -> None:
        for run in self._store.open_runs(NODE) or self._store.open_runs("local:1"):
            outcome, state = self._random.choice(ENDS)
            self._store.end(run, outcome=outcome, state=state, run_at=later(10**3), now=self._now)

    def due(self) -> None:
        self._store.move_due(limit=9, now=self._now)
        self._store.give_up(limit=1, now=self._now)

    def operate(self) -> None:
        if (task_id := self._any()) is not None:
            verb = self._random.choice(("cancel", "hold", "release", "retry"))
            why = ("why",) if verb in ("cancel", "hold") else ()
            getattr(self._store, verb)(task_id, *why, now=self._now)

    def edit(self) -> None:
        if (task_id := self._any()) is not None:
            task = self._store.task(task_id)
            after = replace(task, queue=self._random.choice("abc"))
            if task.state is TaskState.SCHEDULED:
                after = replace(after, state=TaskState.READY, run_at=self._now)
            self._store.edit(task, after, now=self._now)

    def prune(self) -> None:
        self._store.prune(before=self._now, limit=self._random.choice((2, 100)))

    def prune_one(self) -> None:
        if (task_id := self._any()) is not None:
            self._store.prune_each([task_id], TaskFilter(), limit=9)

    def undo(self) -> None:
        with suppress(Undone), self._store.raw.transaction() as now:
            self._store.raw.submit([new_task(queue="a")], now=now)
            raise Undone

    def _any(self) -> int | None:
        ids = sorted(self._store.states())
        return self._random.choice(ids) if ids else None


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_right_after_each_change(store: OneByOne, seed: int) -> None:
    day = Day(store, seed)
    states: set[TaskState] = set()
    ends: set[Outcome] = set()
    for _ in range(150):
        day.go_on()
        agree(store)
        states |= {state for of_queue in store.counts().values() for state in of_queue}
        ends |= {*store.outcomes()}

    assert {*TaskState} - {TaskState.WAITING} == states
    assert {outcome for outcome, _ in ENDS} <= ends


BY_HAND: dict[str, str] = {
    "moved to another queue": "UPDATE tasks SET queue = 'z' WHERE queue = 'own'",
    "set back": "UPDATE tasks SET state = 'held', finished_at = NULL WHERE state = 'succeeded'",
    "copied": """INSERT INTO tasks (state, reason, queue, priority, liveness, lease_ttl_ms,
        max_attempts, created_at, run_at, labels, env, command)
        SELECT 'ready', reason, queue, priority, liveness, lease_ttl_ms, max_attempts, created_at,
            run_at, labels, env, command FROM tasks""",
    "deleted with its runs": "DELETE FROM tasks WHERE state = 'succeeded'",
    "all deleted": "DELETE FROM tasks",
    "runs deleted": "DELETE FROM runs WHERE outcome IS NOT NULL",
    "an outcome corrected": "UPDATE runs SET outcome = 'lost' WHERE outcome IS NOT NULL",
    "nothing changed": "UPDATE tasks SET state = state, queue = queue",
}


@pytest.mark.parametrize("statement", BY_HAND.values(), ids=BY_HAND)
def test_what_is_changed_by_hand_is_counted(store: OneByOne, statement: str) -> None:
    store.new()
    store.new(delay_ms=9)
    for _ in range(3):
        store.finished()
    store.claimed(queue="running")
    by_hand(store, statement)

    agree(store)


def test_a_queue_without_tasks_leaves_no_row(store: OneByOne) -> None:
    for number in range(70):
        queue = f"q{number}"
        store.new(queue=queue, delay_ms=1)
        store.move_due(limit=9, now=later(1))
        (claim,) = store.take(queue, now=later(1))
        store.end(claim, now=later(1))
        store.prune(before=later(9), limit=9)

    with store.raw.transaction():
        ((rows,),) = store.sql("SELECT count(*) FROM counts WHERE queue <> ''")
    # A server adds up once in 128 rows.
    assert rows < (200 if store.raw.engine.dialect.shared else 1)
    agree(store)


def test_wrong_counts_are_found_and_mended(store: OneByOne) -> None:
    store.finished()
    store.new()
    by_hand(store, "UPDATE counts SET many = many + 3 WHERE many > 0 AND queue <> 'own'")

    wrong = store.wrong_counts()
    assert {("default", "ready"): -3, ("", "succeeded"): -3} == wrong
    assert store.mend_counts()
    agree(store)
    assert not store.mend_counts()
    store.new()
    agree(store)


def test_lost_counts_are_counted_anew(store: OneByOne) -> None:
    store.finished()
    store.new()
    by_hand(store, "DELETE FROM counts")

    assert {("own", "succeeded"): 1, ("default", "ready"): 1, ("", "succeeded"): 1} == (
        store.wrong_counts()
    )
    assert store.mend_counts()
    agree(store)


def steps(store: SqlStore, look: Callable[[], object]) -> int:
    """Return how many steps SQLite's virtual machine takes."""
    taken = 0
    connection: Any = store.engine.connection  # type: ignore[attr-defined]

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection.set_progress_handler(step, 1)
    try:
        look()
    finally:
        connection.set_progress_handler(None, 1)
    return taken


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "dispatcher.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}/s"\nruntime_dir = "/none"\n')
    return load(str(file))


@EMBEDDED
def test_no_look_at_all_tasks_depends_on_how_many_have_finished(
    store: OneByOne, config: Config
) -> None:
    def outcomes() -> None:
        with store.raw.snapshot():
            store.raw.outcomes()

    looks: dict[str, Callable[[], object]] = {
        "status": lambda: overview.status(store.raw, config),
        "list": lambda: glance(store.raw),
        "metrics": outcomes,
    }
    taken = []
    for _ in range(2):
        for _ in range(20):
            store.finished()
        # The 20 last ones are shown, whatever else there is.
        taken.append({name: steps(store.raw, look) for name, look in looks.items()})
        by_hand(store, BY_HAND["copied"].replace("'ready'", "'held'"))
        by_hand(
            store,
            "UPDATE tasks SET state = 'succeeded', finished_at = 1 WHERE state = 'held'",
        )

    few, many = taken
    assert {name: few[name] for name in few if many[name] > few[name] * 1.1} == {}, taken
