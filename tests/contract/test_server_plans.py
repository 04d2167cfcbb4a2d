"""On a server, too, the statements of every tick read no table as a whole: see test_query_plans."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.execution import Claim
from dispatcher.store.sql import SqlStore
from dispatcher.store.statements import claims as claims_sql
from dispatcher.store.statements import locks, readers, supervisor, workers
from dispatcher.store.statements.given import given, rows_of
from tests.contract.helpers import NOW, SHARED, OneByOne, new_task, settlement
from tests.contract.test_query_plans import PLANS, in_dialect
from tests.postgres import Postgres

pytestmark = SHARED

#: A step that reads a whole table. The session forbids it, but the planner takes it where it must.
WHOLE = re.compile(r"Seq Scan on (tasks|runs|events|bulk_parts|environments)\b")


@pytest.fixture
def planner(raw: SqlStore) -> Iterator[SqlStore]:
    with raw.transaction():
        yield raw


def plan(store: SqlStore, statement: str, values: dict[str, object]) -> str:
    text = in_dialect(store, statement)
    return "\n".join(line for (line,) in store.engine.rows(f"EXPLAIN {text}", values))


def test_no_statement_reads_a_whole_table(planner: SqlStore) -> None:
    plans = {statement: plan(planner, statement, values) for statement, values, _ in PLANS}

    assert {} == {text: found for text, found in plans.items() if WHOLE.search(found)}


def test_a_whole_table_would_be_noticed(planner: SqlStore) -> None:
    assert WHOLE.search(
        plan(planner, "SELECT id FROM tasks WHERE reason = :reason", {"reason": "x"})
    )


def test_a_batch_is_expected_to_be_small_so_that_each_of_its_rows_is_looked_up(
    planner: SqlStore,
) -> None:
    found = plan(planner, f"SELECT id FROM {given('id')}", {"given": rows_of([])})

    assert re.search(r"rows=10\b", found)


# Statements that name rows, of which each daemon executes one or more in a tick.

#: Open runs of other nodes, and how many runs a statement names.
OPEN, NAMED = 1000, 10

#: A statement locks, reads or changes each row that it names in a few steps.
STEPS = 30

NAMING = {
    "lock tasks": locks.TASKS,
    "lock runs": locks.OPEN_RUNS,
    "lock free tasks": locks.FREE_TASKS,
    "lock free runs": locks.FREE_RUNS,
    "name runs": locks.NAMED_RUNS,
    "read runs": readers.OPEN_RUNS_AMONG,
    "start": supervisor.RECORD_STARTED,
    "close": supervisor.CLOSE,
    "beat": workers.HEARTBEAT,
}


def steps(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a step of a plan, and those below it."""
    yield step
    for one in step.get("Plans", ()):
        yield from steps(one)


def rows_in(plan: dict[str, Any]) -> float:
    """Return how many rows the steps of an executed plan read."""
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    return sum(
        step["Actual Loops"] * sum(step.get(name, 0) for name in names) for step in steps(plan)
    )


@pytest.fixture(params=[0, 300], ids=["new", "after 300 runs"])
def claims(postgres: Postgres, store: OneByOne, request: pytest.FixtureRequest) -> list[Claim]:
    """Return claims of a store that the server analysed while no run was open."""
    history: int = request.param
    store.submit([new_task() for _ in range(history)], now=NOW)
    store.settle([settlement(one) for one in store.take(limit=history + 1)], now=NOW)
    postgres.sql("VACUUM ANALYZE dispatcher.tasks, dispatcher.runs")
    store.submit([new_task(queue="q") for _ in range(OPEN)], now=NOW)
    return store.take("q", limit=OPEN, node="other")


@pytest.mark.parametrize("by", ["uid", "task"])
@pytest.mark.parametrize("statement", NAMING.values(), ids=NAMING)
def test_what_names_rows_costs_as_many_as_it_names_whatever_the_statistics_say(
    store: OneByOne, claims: list[Claim], statement: str, by: str
) -> None:
    named = [
        {"task_id": one.task_id, "lock": one.lock} | ({"uid": one.run_uid} if by == "uid" else {})
        for one in claims[:: OPEN // NAMED]
    ]
    values = {"given": rows_of(named), "node": None, "now": NOW}
    with store.raw.transaction():
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
        ((found,),) = store.raw.engine.rows(explain, values)

    (executed,) = json.loads(found) if isinstance(found, str) else found
    assert rows_in(executed["Plan"]) <= NAMED * STEPS, json.dumps(executed, indent=1)


def test_labels_are_compared_once_for_all_tasks_that_require_the_same(store: OneByOne) -> None:
    models = ("a", "b", "c")
    store.submit([new_task(requires={"gpu": one}) for one in models * 100], now=NOW)
    values = {"queue": "default", "limit": 9, "node": "n", "session": "", "labels": '{"gpu":"x"}'}
    with store.raw.transaction():
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {claims_sql.READY}"
        ((found,),) = store.raw.engine.rows(in_dialect(store.raw, explain), values)

    (executed,) = json.loads(found) if isinstance(found, str) else found
    comparisons = [
        step["Actual Loops"] for step in steps(executed["Plan"]) if "Function Name" in step
    ]
    assert comparisons, executed
    assert max(comparisons) <= len(models), executed
