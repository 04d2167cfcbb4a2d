"""`MOVES` is what the store does, what the schema allows, and what the design's page shows."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from msgspec.structs import replace

from dispatcher.execution import Claim
from dispatcher.model import (
    FINISHED,
    MOVES,
    Declared,
    Intent,
    Liveness,
    Outcome,
    TaskState,
)
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode
from tests.contract.helpers import EMBEDDED, NOW, OneByOne, later

DESIGN = (Path(__file__).parents[2] / "docs" / "design.md").read_text("utf-8")

LATE = later(10**6)

SUCCEEDED = TaskState.SUCCEEDED

#: States in which a task may have a start to come.
LATER = {TaskState.SCHEDULED, TaskState.WAITING}


def _edit(store: OneByOne, claim: Claim, state: TaskState) -> object:
    task = store.task(claim.task_id)
    return store.edit(task, replace(task, state=state, run_at=LATE), now=LATE)


def end_parent(store: OneByOne, claim: Claim, state: TaskState, now: StoreTime) -> None:
    """End the parent of a waiting task, if it has one."""
    for parent in store.take(f"parents-{claim.queue}"):
        store.end(parent, state=state)
    store.resolve(limit=999, now=now)


VERBS: dict[str, Callable[[OneByOne, Claim], object]] = {
    "move_due": lambda store, _: store.move_due(limit=999, now=LATE),
    "give_up": lambda store, _: store.give_up(limit=999, now=LATE),
    "claim": lambda store, claim: store.take(claim.queue, now=LATE),
    "claim_local": lambda store, claim: store.claim_local(
        claim.queue, owner="local:x", output_dir="/o", now=LATE
    ),
    "cancel": lambda store, claim: store.cancel(claim.task_id, "x", now=LATE),
    "hold": lambda store, claim: store.hold(claim.task_id, "x", now=LATE),
    "retry": lambda store, claim: store.retry(claim.task_id, now=LATE),
    "release": lambda store, claim: store.release(claim.task_id, now=LATE),
    "its parent succeeds": partial(end_parent, state=SUCCEEDED, now=LATE),
    "its parent succeeds early": lambda store, claim: end_parent(
        store, claim, TaskState.SUCCEEDED, NOW
    ),
    "its parent fails": partial(end_parent, state=TaskState.FAILED, now=LATE),
    **{f"edit to {state}": partial(_edit, state=state) for state in TaskState},
    **{
        f"settle as {state}": partial(OneByOne.end, state=state, now=LATE)
        for state in MOVES[TaskState.RUNNING]
    },
}


#: The states of tasks that may have a parent that has not finished.
MAY_WAIT = {TaskState.WAITING, TaskState.HELD, TaskState.FAILED, TaskState.CANCELLED}


def wait_for(store: OneByOne, task_id: int, parent_id: int) -> None:
    with store.raw.transaction():
        values = {"id": task_id, "parent": parent_id}
        store.raw.engine.change(
            "INSERT INTO dependencies (task_id, parent_id, any_outcome, state)"
            " VALUES (:id, :parent, FALSE, 'open')",
            values,
        )
        store.raw.engine.change("UPDATE tasks SET blockers = 1 WHERE id = :id", values)
        store.raw.engine.change("UPDATE tasks SET awaited = TRUE WHERE id = :parent", values)


def moves_made(store: OneByOne) -> Iterator[tuple[TaskState, TaskState]]:
    """Yield each change of state that a verb makes, of a task in each state."""
    for number, (before, verb, waits) in enumerate(product(TaskState, VERBS, (False, True))):
        claim = store.claimed(queue=f"q{number}", total_timeout_ms=1000)
        if before is not TaskState.RUNNING:
            store.end(claim, state=before, run_at=later(500) if before in LATER else None)
        if (waits and before not in MAY_WAIT) or (before is TaskState.WAITING and not waits):
            continue
        if waits:
            wait_for(store, claim.task_id, store.new(queue=f"parents-{claim.queue}"))
        VERBS[verb](store, claim)
        after = store.task(claim.task_id).state
        if after is not before:
            yield before, after


def test_the_store_makes_every_move_and_no_other(store: OneByOne) -> None:
    made = set(moves_made(store))

    assert {(before, after) for before, afters in MOVES.items() for after in afters} == made


def test_the_designs_table_and_diagram_show_the_moves() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", section("### 4.1 States"), re.MULTILINE)
    arrows = re.findall(r"^    (\w+) --> (\w+): ", section("### 4.1 States"), re.MULTILINE)

    assert {state: set(MOVES[state]) for state in TaskState} == {
        state: set(re.findall(r"`(\w+)`", afters)) for state, afters in rows
    }
    assert len(arrows) == len(set(arrows))
    assert {(one, to) for one, afters in MOVES.items() for to in afters} == set(arrows)


def section(heading: str) -> str:
    """Return a section of the design's page."""
    return DESIGN.partition(f"{heading}\n")[2].partition("\n### ")[0]


@EMBEDDED
def test_the_schema_checks_the_states_and_words_of_the_model(store: OneByOne) -> None:
    with store.raw.transaction():
        rows = store.sql("SELECT sql FROM sqlite_schema WHERE name IN ('tasks', 'runs')")
    schema = " ".join(text for (text,) in rows)
    states = dict(re.findall(r"WHEN '(\w+)' THEN finished_at IS (NOT )?NULL", schema))

    assert {*TaskState} == states.keys()
    assert FINISHED == {state for state, finished in states.items() if finished}
    for column, kind in {
        "outcome": Outcome,
        "ending": Outcome,
        "declared": Declared,
        "intent": Intent,
        "liveness": Liveness,
        "kill_mode": KillMode,
    }.items():
        assert {*kind} == set(re.findall(rf"\b{column} = '(\w+)'", schema)), column


@EMBEDDED
def test_a_state_written_by_hand_reads_as_held_until_an_operator_decides(store: OneByOne) -> None:
    task_id = store.new()
    with store.raw.transaction():
        store.sql("PRAGMA ignore_check_constraints = ON")
        store.sql("UPDATE tasks SET state = 'asleep'")
        store.sql("PRAGMA ignore_check_constraints = OFF")

    task = store.task(task_id)

    assert TaskState.HELD is task.state
    assert "damaged by hand: state: " in task.reason
    assert {"default": {TaskState.HELD: 1}} == store.counts()
    assert TaskState.HELD is store.release(task_id, now=LATE)
    assert TaskState.READY is store.task(task_id).state
