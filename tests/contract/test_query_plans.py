"""The statements that run in every tick cost what they return, not what the tables hold."""

from collections import Counter
from typing import Any

import pytest

from dispatcher.execution import StartedRun
from dispatcher.model import Outcome, TaskFilter, TaskState
from dispatcher.store.parameters import filter_parameters
from dispatcher.store.sql import SqlStore
from dispatcher.store.statements import (
    claims,
    dependencies,
    events,
    handovers,
    hooks,
    keys,
    lanes,
    limits,
    locks,
    moves,
    nodes,
    operators,
    readers,
    schedules,
    submitters,
    supervisor,
    work,
    workers,
)
from dispatcher.wire import Exit
from tests.contract.helpers import EMBEDDED, NODE, NOW, OneByOne, later

#: The plans are SQLite's.
pytestmark = EMBEDDED

#: One row for the table `given`, and what all of a worker's messages have.
ONE = '[{"id": 1, "task_id": 1, "uid": "u"}]'
KEY = '[{"queue": "q", "concurrency_key": "k"}]'
GAPS = '[{"low_id": 1, "high_id": 2}]'
BEAT = {
    **dict.fromkeys(("task_id", "now", "delay_ms", "progress"), 1),
    "retry": True,
    **dict.fromkeys(("lock", "note", "declared", "reason", "result"), "x"),
}

#: The parameters of a node that claims.
CLAIMER = {"node": "n", "session": ""}

#: Of four lanes, the next ready tasks.
FOUR_LANES = {
    **{f"lane{n}": "x" for n in range(4)},
    **{f"most{n}": 1 for n in range(4)},
    "queue": "q",
    "limit": 1,
}

PLANS = [
    (claims.READY, {"queue": "q", "limit": 1, **CLAIMER}, ["tasks_ready (queue=? AND lane=?)"]),
    (claims.READY_AMONG, {"queue": "q", "given": ONE, **CLAIMER}, ["tasks USING INTEGER PRIMARY"]),
    (lanes.OF_QUEUE, {"queue": "q", "after": "", "limit": 9}, ["tasks_ready (queue=? AND lane>?)"]),
    (lanes.first(4), FOUR_LANES, ["COVERING INDEX tasks_ready (queue=? AND lane=?)"]),
    (
        lanes.BEFORE,
        {"queue": "q", "id": 1, "given": '[{"lane": ""}]', "limit": 1},
        ["COVERING INDEX tasks_ready (queue=? AND lane=? AND rank<?)"],
    ),
    (lanes.ALL, {}, ["COVERING INDEX tasks_ready (queue>?", "PRIMARY KEY"]),
    (lanes.UNPAUSED, {}, ["COVERING INDEX tasks_ready (queue>?", "PRIMARY KEY"]),
    (lanes.SCHEDULED, {}, ["tasks_due"]),
    (
        lanes.SINCE,
        {"limit": 9},
        ["COVERING INDEX tasks_ready (queue>?", "COVERING INDEX tasks_ready (queue=? AND lane=?)"],
    ),
    (supervisor.READY_QUEUES, {"after": "", "limit": 1, **CLAIMER}, ["tasks_ready"]),
    (supervisor.DUE, {"now": 1, "limit": 1}, ["tasks_due"]),
    (supervisor.NEXT_DUE, {}, ["tasks_due"]),
    (supervisor.OVERDUE, {"now": 1, "limit": 1}, ["tasks_failing"]),
    (supervisor.NEXT_FAILURE, {}, ["tasks_failing"]),
    (supervisor.OPEN_RUNS_HERE, {"node": "n"}, ["runs_here", "PRIMARY KEY"]),
    (supervisor.ENDINGS, {"node": "n"}, ["runs_ending"]),
    (supervisor.RENEW, {"node": "n", "now": 1}, ["runs_here", "(uid=?)"]),
    (supervisor.EXPIRED, {"node": "n", "now": 1, "limit": 1}, ["runs_here", "PRIMARY KEY"]),
    (supervisor.NEXT_EXPIRY, {"node": "n"}, ["runs_here"]),
    (supervisor.RECORD_STARTED, {"given": ONE, "now": 1}, ["(uid=?)"]),
    (supervisor.CLOSE, {"given": ONE}, ["(uid=?)"]),
    (readers.OPEN_RUN, {"uid": "u"}, ["(uid=?)", "PRIMARY KEY"]),
    (readers.OPEN_RUNS_AMONG, {"given": ONE}, ["(uid=?)", "PRIMARY KEY"]),
    (readers.KNOWN_RUNS, {"given": ONE}, ["(uid=?)"]),
    (supervisor.TAKE_RUNS, {"given": ONE}, ["(uid=?)", "PRIMARY KEY"]),
    (locks.NODE, {"node": "n"}, []),
    (locks.TASKS, {"given": ONE, "node": "n"}, ["PRIMARY KEY", "(uid=?)", "runs_here"]),
    (locks.OPEN_RUNS, {"given": ONE, "node": None}, ["PRIMARY KEY", "(uid=?)", "runs_here"]),
    (locks.ENVIRONMENTS, {"given": ONE}, ["PRIMARY KEY"]),
    (locks.UNUSED_ENVIRONMENTS, {"given": ONE}, ["PRIMARY KEY", "tasks_environment"]),
    (supervisor.HAS_UNFINISHED, {"but": "", **CLAIMER}, ["runs_", "tasks_due"]),
    (supervisor.ABANDONED, {"now": 1, "limit": 1}, ["runs_takeover", "PRIMARY KEY"]),
    (
        supervisor.STRANDED,
        {"node": "n", "alone": True, "now": 1, "given": ONE, "limit": 1},
        ["runs_", "PRIMARY KEY"],
    ),
    (
        supervisor.STRANDED_AMONG,
        {"node": "n", "alone": True, "now": 1, "given": ONE},
        ["(uid=?)", "PRIMARY KEY"],
    ),
    (
        supervisor.TAKEABLE,
        {"node": "n", "alone": False, "now": 1},
        ["runs_takeover", "runs_"],
    ),
    (
        supervisor.TAKEABLE_AMONG,
        {"node": "n", "alone": False, "now": 1, "given": ONE},
        ["(uid=?)"],
    ),
    (
        supervisor.ARE_TAKEABLE,
        {"node": "n", "alone": False, "now": 1, "given": ONE},
        ["runs_takeover", "runs_"],
    ),
    (supervisor.NEXT_TAKEOVER, {"node": "n", "now": 1}, ["runs_takeover"]),
    (
        work.NEXT_WORK,
        {"after": "", "limit": 1, **CLAIMER, "alone": True, "now": 1, "silent": 1, "gone": 1},
        ["tasks_ready", "runs_takeover", "runs_", "tasks_due", "tasks_failing"],
    ),
    (supervisor.CONFIRM, {"node": "n", "until": 1}, ["runs_here"]),
    (supervisor.CONFIRMED, {"node": "n"}, ["runs_here"]),
    (workers.HEARTBEAT, {"given": ONE, "now": 1}, ["(uid=?)", "PRIMARY KEY"]),
    (workers.NOTE, BEAT, ["runs_open"]),
    (workers.DECLARE, BEAT, ["runs_open"]),
    (workers.RENEW_SHORT, {"node": "n", "now": 1, "gap_ms": 1}, ["runs_here", "(uid=?)"]),
    (workers.DECLARED_UIDS, {"node": "n"}, ["runs_declared"]),
    (readers.LEASES, {}, ["runs_"]),
    (claims.READY_TASK, {"task_id": 1}, ["PRIMARY KEY"]),
    (supervisor.BEGIN_ENDINGS, {"given": ONE}, ["(uid=?)"]),
    (supervisor.RECORD_LEADER_EXITS, {"given": ONE}, ["(uid=?)"]),
    (workers.LOCKS_OF, {"given": ONE}, ["(uid=?)"]),
    (handovers.PREVIOUS, {"given": ONE}, ["(task_id=?"]),
    (readers.ASKING, {"queue": "q", "limit": 1}, ["handovers_asking", "PRIMARY KEY"]),
    (handovers.ASK_NO_MORE, {"task_id": 1}, ["(task_id=?)"]),
    (handovers.HANDOVERS, {"given": ONE}, ["(task_id=?)"]),
    (dependencies.ENDED, {"limit": 1}, ["tasks_awaited"]),
    (dependencies.OPEN, {"given": ONE, "limit": 1}, ["dependencies_open", "PRIMARY KEY"]),
    (dependencies.PARENTS_OF, {"given": ONE, "limit": 1}, ["(task_id=?)", "PRIMARY KEY"]),
    (dependencies.CHILDREN_OF, {"id": 1, "limit": 1}, ["dependencies_of_parent"]),
    (dependencies.RESULTS, {"given": ONE}, ["(task_id=?)", "PRIMARY KEY"]),
    (dependencies.KNOWN, {"given": ONE}, ["PRIMARY KEY", "tasks_key"]),
    (dependencies.BROKEN, {"id": 1}, ["dependencies_of_parent", "PRIMARY KEY"]),
    (claims.EARLIER_OUTPUTS, {"given": ONE, "owner": "n"}, ["(task_id=?)"]),
    *((move.statement, {"given": ONE, "now": 1}, ["PRIMARY KEY"]) for move in moves.MOVES),
    *(
        (move.event, {"given": ONE, "now": 1, "who": "x"}, ["PRIMARY KEY"])
        for move in moves.MOVES
        if move.event is not None
    ),
    *(
        (text, {"before": 9, "limit": 1}, ["PRIMARY KEY (rowid<?)"])
        for text in events.LAST.values()
    ),
    *((text, {"after": 1, "limit": 1}, ["PRIMARY KEY (rowid>?)"]) for text in events.NEW.values()),
    *((text, {"given": GAPS}, ["PRIMARY KEY (rowid>?"]) for text in events.AMONG.values()),
    *((text, {"task_id": 1}, ["(task_id=?)"]) for text in events.OF_TASK.values()),
    (schedules.TAKE, {"given": '[{"name": "x"}]'}, ["(name=?)"]),
    (schedules.UNFINISHED, {"origin": "x", "limit": 1}, ["tasks_origin (origin=?)"]),
    (
        hooks.HAPPENED,
        {"given": ONE},
        ["events USING INTEGER PRIMARY KEY", "(task_id=? AND fence=?)"],
    ),
    (
        hooks.UNKILLABLE,
        {"uid": "u", "now": 1, "who": "x", "reason": "x"},
        ["(uid=?)", "events_task (task_id=?)"],
    ),
    (events.PRUNE, {"before": 1, "limit": 1}, ["events_task (task_id=?)"]),
    (operators.DELETE_SOME_EVENTS, {"id": 1, "limit": 1}, ["events_task (task_id=?)"]),
    (readers.RUNS, {"task_id": 1}, ["(task_id=?)"]),
    (readers.LAST_RUN, {"task_id": 1}, ["(task_id=?)"]),
    (readers.RUNNING, {"queue": None, "limit": 1}, ["runs_here"]),
    (readers.AMONG, {"given": ONE}, ["PRIMARY KEY"]),
    (readers.FIRST_DUE, {"queue": None, "limit": 1}, ["tasks_due"]),
    (readers.LAST_FINISHED, {"state": "failed", "limit": 1}, ["tasks_finished (state=?"]),
    (readers.RESTING, {"queue": "q", "state": "held", "limit": 1}, ["tasks_resting (queue=? AND"]),
    (readers.PRUNABLE, {"before": 1, "state": "failed"}, ["tasks_finished (state=? AND"]),
    (
        operators.edit(("queue", "run_at")),
        {
            "id": 1,
            "was": "ready",
            "becomes": "ready",
            "fence": 1,
            "moved_to": "q",
            "queue": "q",
            "run_at": 1,
            "total_ms": 1,
            "queue_ms": 1,
            "now": 1,
        },
        ["PRIMARY KEY", "tasks_key (queue=? AND key=?)"],
    ),
    (operators.RUN, {"uid": "u"}, ["(uid=?)", "PRIMARY KEY"]),
    (operators.OLD, {"before": 1, "limit": 1, "state": "x"}, ["tasks_finished (state=? AND"]),
    (operators.FINISHED, {"given": ONE}, ["PRIMARY KEY"]),
    (operators.MANY_RUNS, {"given": ONE, "limit": 1}, ["(task_id=?)"]),
    (operators.OUTPUTS, {"given": ONE}, ["(task_id=?)"]),
    (operators.SOME_RUNS, {"id": 1, "limit": 1}, ["(task_id=?)"]),
    (operators.DELETE, {"given": ONE}, ["PRIMARY KEY"]),
    (operators.DELETE_RUNS, {"given": ONE}, ["PRIMARY KEY"]),
    (readers.COUNTS, {}, ["runs_", "PRIMARY KEY"]),
    (readers.READY_SINCE, {}, ["COVERING INDEX tasks_ready"]),
    (readers.READY_ANYWHERE_SINCE, {}, ["COVERING INDEX tasks_ready"]),
    (nodes.RUNNING_BY_NODE, {}, ["runs_here"]),
    (nodes.RUNNING_OF_QUEUE, {"queue": "q"}, ["runs_", "PRIMARY KEY"]),
    (readers.OUTCOMES, {}, []),
    (limits.HOLDING, {}, ["COVERING INDEX tasks_taking (state=?"]),
    (limits.TAKEN, {"state": "ready"}, ["COVERING INDEX tasks_taking (state=?"]),
    (keys.DUE, {"limit": 1}, ["tasks_key_due"]),
    (keys.NEXT, {"given": KEY}, ["tasks_behind (queue=?", "tasks_key_holders (queue=? AND"]),
    (keys.TAKE, {"given": ONE}, ["PRIMARY KEY"]),
    (keys.LEAVE, {"queue": "q", "key": "k"}, ["tasks_behind (queue=? AND", "PRIMARY KEY"]),
    (supervisor.NEXT_DUE_OR_KEYS, {}, ["tasks_due", "tasks_key_due"]),
    (readers.TASK, {"id": 1}, ["PRIMARY KEY", "tasks_key_holders (queue=? AND"]),
    (
        limits.HEALTH,
        {"name": "x", "since": 1, "probe": "u"},
        ["limit_results_name (name=?", "(uid=?)"],
    ),
    (limits.TAKEN_BY, {"task_id": 1, "lock": "x"}, ["runs_open", "PRIMARY KEY"]),
    (submitters.COMING, {}, ["bulk_parts_left"]),
    (submitters.NEXT_PART, {"uid": "u", "after": -1}, ["bulk_parts_left (uid=? AND"]),
    (submitters.ACCEPTED, {}, ["bulk_parts_left (uid=?)"]),
    (submitters.SILENT, {"silent": 2, "gone": 1}, ["bulk_parts_left (uid=?)"]),
    (readers.SUBMITTED_FROM, {"id": 1}, ["PRIMARY KEY"]),
    (submitters.ENVIRONMENT_IDS, {"given": ONE}, ["environments_checksum"]),
    (submitters.REMOVE_UNUSED_ENVIRONMENTS, {"given": ONE}, ["COVERING INDEX tasks_environment"]),
    (submitters.TASKS_WITH_KEYS, {"given": ONE}, ["tasks_key"]),
]


@pytest.mark.parametrize(("statement", "values", "used"), PLANS, ids=lambda part: str(part)[:40])
def test_a_statement_uses_its_index_and_sorts_no_table(
    raw: SqlStore, statement: str, values: dict[str, object], used: list[str]
) -> None:
    with raw.transaction():
        plan = [row[3] for row in raw.engine.rows(f"EXPLAIN QUERY PLAN {statement}", values)]

    tables = (" tasks", " runs", " events", " bulk_parts", " environments")
    tables += (" limit_results",)
    tables += (" dependencies", " handovers", " schedules")
    steps = [step for step in plan if any(table in step for table in tables)]
    assert [step for step in steps if "USING" not in step] == [], plan
    assert [index for index in used if not any(index in step for step in steps)] == [], plan


@pytest.mark.parametrize(
    "statement",
    [
        claims.READY,
        supervisor.READY_QUEUES,
        supervisor.DUE,
        supervisor.OVERDUE,
        supervisor.NEXT_FAILURE,
        supervisor.STRANDED,
        operators.OLD,
        readers.LAST_RUN,
        readers.RUNNING,
        lanes.OF_QUEUE,
        readers.FIRST_DUE,
        readers.LAST_FINISHED,
        readers.RESTING,
        *events.LAST.values(),
        *events.NEW.values(),
        events.PRUNE,
    ],
)
def test_a_limit_needs_no_sorting(raw: SqlStore, statement: str) -> None:
    values = {"queue": "q", "limit": 1, "now": 1, "after": "", "before": 1, "state": "x"}
    values |= {"task_id": 1, "given": ONE, "alone": False, **CLAIMER}
    with raw.transaction():
        plan = [row[3] for row in raw.engine.rows(f"EXPLAIN QUERY PLAN {statement}", values)]

    assert [step for step in plan if "TEMP B-TREE" in step] == []


@pytest.mark.parametrize(
    "statement",
    [readers.TASKS, readers.TASKS_OLDEST_FIRST, readers.MATCHES],
    ids=["newest first", "oldest first", "matches"],
)
def test_looking_for_tasks_reads_no_row_outside_its_bounds(raw: SqlStore, statement: str) -> None:
    wanted = TaskFilter(queue="q", since=NOW, label=("a", "b"), text="x", finished_before=NOW)
    values = filter_parameters(wanted)
    with raw.transaction():
        dialect = raw.engine.dialect
        statement = statement.format(
            each_label=dialect.pairs("labels"), text_in_command=dialect.text_in_command
        )
        plan = [row[3] for row in raw.engine.rows(f"EXPLAIN QUERY PLAN {statement}", values)]

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
            store.record_started([StartedRun(uid=claim.run_uid, pid=1, at=NOW)], now=NOW)
            store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=1)}, now=NOW)
            store.open_runs(NODE)
            store.confirm(NODE, later(9))
            store.declared(NODE)
            store.abandoned(limit=10, now=NOW)
            store.abandoned(limit=10, expired=False, now=NOW)
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
    connection: Any = store.raw.engine.connection

    def allow(*args: object) -> int:
        planned[str(args)] += 1
        return 0

    # SQLite calls it while it plans. Setting this makes it plan everything once more.
    connection.set_authorizer(allow)
    a_days_work(store)
    a_days_work(store)
    assert planned.total() > 100

    planned.clear()
    a_days_work(store)

    assert Counter() == planned
