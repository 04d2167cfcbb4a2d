"""The statements that run in every tick cost what they return, not what the tables hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from dispatcher.model import Outcome, TaskFilter, TaskState
from dispatcher.store import statements
from dispatcher.store.sql import SqlStore
from dispatcher.store.values import of_filter
from tests.contract.helpers import NODE, NOW, OneByOne, later

PLANS = [
    (statements.READY, {"queue": "q", "limit": 1}, ["tasks_ready"]),
    (statements.READY_QUEUES, {"after": "", "limit": 1}, ["tasks_ready"]),
    (statements.DUE, {"now": 1, "limit": 1}, ["tasks_due"]),
    (statements.NEXT_DUE, {}, ["tasks_due"]),
    (statements.OVERDUE, {"now": 1, "limit": 1}, ["tasks_failing"]),
    (statements.NEXT_FAILURE, {}, ["tasks_failing"]),
    (statements.OPEN_RUNS, {"node": "n"}, ["tasks_running", "(uid=?)"]),
    (statements.ENDINGS, {"node": "n"}, ["tasks_endings", "(uid=?)"]),
    (statements.OPEN_RUN, {"uid": "u"}, ["(uid=?)", "PRIMARY KEY"]),
    (statements.HAS_UNFINISHED, {"but": ""}, ["tasks_running", "tasks_ready", "tasks_due"]),
    (statements.ABANDONED, {"now": 1, "limit": 1}, ["tasks_takeover", "(uid=?)"]),
    (statements.STRANDED, {"node": "n", "alone": True, "now": 1}, ["tasks_running", "(uid=?)"]),
    (statements.NEXT_TAKEOVER, {"node": "n", "now": 1}, ["tasks_takeover"]),
    (statements.CONFIRM, {"node": "n", "until": 1}, ["tasks_running", "(uid=?)"]),
    (statements.DECLARED_UIDS, {"node": "n"}, ["runs_declared"]),
    (statements.LEASES, {}, ["tasks_running"]),
    (statements.READY_TASK, {"task_id": 1}, ["PRIMARY KEY"]),
    (statements.LAST_OUTCOME, {"task_id": 1}, ["(task_id=?)"]),
    (statements.EARLIER_OUTPUTS, {"task_id": 1, "owner": "n"}, ["(task_id=?)"]),
    (statements.RUNS, {"task_id": 1}, ["(task_id=?)", "PRIMARY KEY"]),
    (statements.PRUNABLE, {"before": 1, "state": "failed"}, ["tasks_finished (state=? AND"]),
    (statements.OLD, {"before": 1, "limit": 1, "state": "x"}, ["tasks_finished (state=? AND"]),
    (statements.OLD_RUNS, {"task_id": 1, "limit": 1}, ["(task_id=?)"]),
    (
        statements.COUNTS,
        {},
        ["COVERING INDEX tasks_resting", "COVERING INDEX tasks_ready", "tasks_running"],
    ),
    (statements.READY_SINCE, {}, ["COVERING INDEX tasks_ready"]),
    (statements.OUTCOMES, {}, ["COVERING INDEX runs_closed"]),
    (statements.COMING, {}, ["bulk_parts_left"]),
    (statements.NEXT_PART, {"uid": "u", "after": -1}, ["bulk_parts_left (uid=? AND"]),
    (statements.ACCEPTED, {}, ["bulk_parts_left (uid=?)"]),
    (statements.SILENT, {"silent": 2, "gone": 1}, ["bulk_parts_left (uid=?)"]),
    (statements.SUBMITTED_FROM, {"id": 1}, ["PRIMARY KEY"]),
    (statements.TASK_WITH_KEY, {"queue": "q", "key": "k"}, ["tasks_key"]),
]


@pytest.mark.parametrize(("statement", "values", "used"), PLANS, ids=lambda part: str(part)[:40])
def test_a_statement_goes_by_its_index_and_sorts_no_table(
    raw: SqlStore, statement: str, values: dict[str, object], used: list[str]
) -> None:
    with raw.transaction():
        plan = [row[3] for row in raw._engine.rows(f"EXPLAIN QUERY PLAN {statement}", values)]

    steps = [step for step in plan if " tasks" in step or " runs" in step or " bulk_parts" in step]
    assert [step for step in steps if "USING" not in step] == [], plan
    assert [index for index in used if not any(index in step for step in steps)] == [], plan


@pytest.mark.parametrize(
    "statement",
    [
        statements.READY,
        statements.READY_QUEUES,
        statements.DUE,
        statements.OVERDUE,
        statements.NEXT_FAILURE,
        statements.OLD,
    ],
)
def test_a_limit_needs_no_sorting(raw: SqlStore, statement: str) -> None:
    values = {"queue": "q", "limit": 1, "now": 1, "after": "", "before": 1, "state": "x"}
    with raw.transaction():
        plan = [row[3] for row in raw._engine.rows(f"EXPLAIN QUERY PLAN {statement}", values)]

    assert [step for step in plan if "TEMP B-TREE" in step] == []


@pytest.mark.parametrize("oldest_first", [False, True])
def test_looking_for_tasks_reads_no_row_outside_its_bounds(
    raw: SqlStore, *, oldest_first: bool
) -> None:
    values = of_filter(TaskFilter(queue="q", since=NOW, label=("a", "b")))
    with raw.transaction():
        statement = f"EXPLAIN QUERY PLAN {raw._tasks[oldest_first]}"
        plan = [row[3] for row in raw._engine.rows(statement, values)]

    assert "SEARCH tasks USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in plan
    assert [step for step in plan if "TEMP B-TREE" in step] == []


def a_days_work(store: OneByOne) -> None:
    """Call everything that the daemon calls in its ticks."""
    store.new()
    store.new(delay_ms=1)
    store.move_due(limit=10, now=later(1))
    store.next_due()
    store.new(queue_timeout_ms=1)
    store.next_failure()
    store.give_up(limit=10, now=later(1))
    for queue in store.ready_queues(after="", limit=10):
        for claim in store.take(queue, limit=10):
            store.record_started(claim.run_uid, pid=1, started_at=NOW, now=NOW)
            store.record_leader_exit(claim.run_uid, exit_code=1, signal=None, now=NOW)
            store.open_runs(NODE)
            store.confirm(NODE, later(9))
            store.declared(NODE)
            store.abandoned(limit=10, now=NOW)
            store.stranded(NODE, now=NOW)
            store.next_takeover(NODE, now=NOW)
            store.begin_ending(claim.run_uid, Outcome.RELEASED, "drain", now=NOW)
            store.endings(NODE)
            assert store.open_run(claim.run_uid) is not None
            store.end(claim, outcome=Outcome.RELEASED, state=TaskState.READY)
    store.has_unfinished()
    store.prune(before=NOW, limit=10)


def test_no_statement_is_planned_twice(store: OneByOne) -> None:
    planned: Counter[str] = Counter()
    connection: Any = store.raw._engine._connection

    def allow(*args: object) -> int:
        planned[str(args)] += 1
        return 0

    # SQLite asks while it plans. Setting this makes it plan everything once more.
    connection.set_authorizer(allow)
    a_days_work(store)
    a_days_work(store)
    assert planned.total() > 100

    planned.clear()
    a_days_work(store)

    assert Counter() == planned
