"""On a server, too, the statements of every tick read no table as a whole: see test_query_plans."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.execution import Claim
from dispatcher.lanes import lane
from dispatcher.store.sql import SqlStore
from dispatcher.store.statements import claims as claims_sql
from dispatcher.store.statements import lanes, locks, readers, supervisor, workers
from dispatcher.store.statements.given import given, rows_of
from tests.contract.helpers import NOW, SHARED, OneByOne, new_task, settlement
from tests.contract.test_query_plans import PLANS
from tests.postgres import Postgres

pytestmark = SHARED

#: A step that reads a whole table. The session forbids it, but the planner takes it where it must.
WHOLE = re.compile(r"Seq Scan on (tasks|runs|events|bulk_parts|environments)\b")


@pytest.fixture
def planner(raw: SqlStore) -> Iterator[SqlStore]:
    with raw.transaction():
        yield raw


def plan(store: SqlStore, statement: str, values: dict[str, object]) -> str:
    return "\n".join(line for (line,) in store.engine.rows(f"EXPLAIN {statement}", values))


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
    "take runs": supervisor.TAKE_RUNS,
    "exit": supervisor.RECORD_LEADER_EXITS,
    "end": supervisor.BEGIN_ENDINGS,
    "read locks": workers.LOCKS_OF,
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


#: Of each lane, what the statement of a claim reads in a few steps; and tasks in it.
FEW, MANY = 5, 400

#: The lanes of the tasks: nothing needed, and three models of which a node may have two.
MODELS = ("", "a", "b", "c")

LANED: dict[str, tuple[str, dict[str, object], int]] = {
    "a queue without lanes": (claims_sql.READY, {"queue": "plain"}, FEW),
    "a queue with some": (claims_sql.READY, {}, 1),
    "lanes": (lanes.OF_QUEUE, {"after": "", "limit": 64}, len(MODELS)),
    "first": (lanes.first(4), {"lane0": "", "lane1": "a", "lane2": None, "lane3": "c"}, 4 * FEW),
    "locked": (claims_sql.READY_AMONG, {"queue": "plain", "named": FEW}, FEW),
    "before": (lanes.BEFORE, {"id": 10_000}, 2 * FEW),
    "all": (lanes.ALL, {}, len(MODELS)),
}


@pytest.mark.parametrize(("statement", "given", "found"), LANED.values(), ids=LANED)
def test_what_finds_ready_tasks_reads_few_of_each_lane_whatever_the_statistics_say(
    postgres: Postgres,
    store: OneByOne,
    statement: str,
    given: dict[str, object],
    found: int,
) -> None:
    """The server analysed the table while no task was ready."""
    store.settle([settlement(one) for one in finished(store)], now=NOW)
    postgres.sql("VACUUM ANALYZE dispatcher.tasks, dispatcher.runs")
    needs = [{"requires": {"gpu": one}} if one else {} for one in MODELS]
    store.submit([new_task(**one) for one in needs * MANY], now=NOW)
    store.submit([new_task(queue="plain") for _ in range(MANY)], now=NOW)
    names = {one: lane(each.get("requires", {})) for one, each in zip(MODELS, needs, strict=True)}
    values: dict[str, object] = {"queue": "default", "limit": FEW, "node": "n", "session": ""}
    each_lane = rows_of({"lane": one} for one in names.values())
    values |= {**{f"most{n}": FEW for n in range(4)}, "given": each_lane}
    values |= {name: names.get(str(one), one) for name, one in given.items()}
    with store.raw.transaction():
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
        if "id" in given:
            ((values["id"],),) = store.sql("SELECT max(id) FROM tasks WHERE queue = 'default'")
        if "named" in given:
            named = store.sql("SELECT id FROM tasks WHERE queue = 'plain' ORDER BY id DESC LIMIT 5")
            values["given"] = rows_of({"id": one} for (one,) in named)
        ((answer,),) = store.raw.engine.rows(explain, values)

    (executed,) = json.loads(answer) if isinstance(answer, str) else answer
    assert rows_in(executed["Plan"]) <= found * STEPS, json.dumps(executed, indent=1)


def finished(store: OneByOne) -> list[Claim]:
    store.submit([new_task() for _ in range(300)], now=NOW)
    return store.take(limit=300)
