"""On a server, too, the statements of every tick read no table as a whole: see test_query_plans."""

import re
from collections.abc import Iterator

import pytest

from dispatcher.store.sql import SqlStore
from dispatcher.store.statements.given import given, rows_of
from tests.contract.helpers import SHARED
from tests.contract.test_query_plans import PLANS, in_dialect

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
