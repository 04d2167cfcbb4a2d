"""SQL that only reads. A limit is cast: see `supervisor`."""

from functools import cache

from dispatcher.execution import KILL_GRACE_MS, OpenRun
from dispatcher.lanes import BEHIND
from dispatcher.model import Run, Task, TaskState
from dispatcher.store.rows import columns, names
from dispatcher.store.statements.given import NAMED_IS_OPEN, given

# What a task and its open run both have is the task's, but for these.
_OF_OPEN_RUN = {
    **{name: f"open.{name}" for name in ("ending", "intent", "intent_reason")},
    "reason": "COALESCE(open.ending_reason, tasks.reason)",
    "key_holder": f"""CASE WHEN tasks.state = 'ready' AND tasks.lane = '{BEHIND}'
        THEN (SELECT holders.id FROM tasks AS holders WHERE holders.queue = tasks.queue
            AND holders.concurrency_key = tasks.concurrency_key
            AND holders.concurrency_key IS NOT NULL AND holders.lane <> '{BEHIND}') END""",
}
_OF_THE_TASK = {name: f"tasks.{name}" for name in names(Task)} | _OF_OPEN_RUN
_TASK_WITHOUT_PAYLOAD = columns(Task, **_OF_THE_TASK | {"payload": "NULL"})
_PAYLOAD = "(SELECT payload FROM payloads WHERE task_id = tasks.id)"
_TASK = columns(Task, **_OF_THE_TASK | {"payload": _PAYLOAD})

_TASKS = "FROM tasks LEFT JOIN runs AS open ON open.uid = tasks.run_uid"

TASK = f"SELECT {_TASK} {_TASKS} WHERE tasks.id = :id"

TASK_WITHOUT_PAYLOAD = f"SELECT {_TASK_WITHOUT_PAYLOAD} {_TASKS} WHERE tasks.id = :id"

ENVIRONMENT = "SELECT variables FROM environments WHERE id = :id"

ENVIRONMENT_SIZE = "SELECT octet_length(variables) FROM environments WHERE id = :id"

# A state that is not wanted is NULL, which equals nothing. The casts give a parameter that may be
# NULL a type.
_MATCHING = f"""
WHERE state IN ({", ".join(f":{state}" for state in TaskState)})
    AND queue = COALESCE(CAST(:queue AS TEXT), queue)
    AND tasks.id > :after_id AND tasks.id < :before_id
    AND created_at >= :since AND created_at < :until
    AND (CAST(:finished_before AS BIGINT) IS NULL OR finished_at < :finished_before)
    AND (CAST(:profile AS TEXT) IS NULL OR profile = :profile)
    AND (CAST(:text AS TEXT) IS NULL OR {{text_in_command}} OR EXISTS (
        SELECT 1 FROM {{each_label}} AS label WHERE label.key = 'name'
            AND replace(label.value, :text, '') <> label.value))
    AND (CAST(:label AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM {{each_label}} AS label WHERE label.key = :label AND label.value = :labelled))
"""

_LIMIT = "LIMIT CAST(:limit AS BIGINT)"

TASKS = f"SELECT {_TASK} {_TASKS}{_MATCHING}ORDER BY tasks.id DESC {_LIMIT}"

TASKS_OLDEST_FIRST = f"SELECT {_TASK} {_TASKS}{_MATCHING}ORDER BY tasks.id {_LIMIT}"


@cache
def without_payload(statement: str) -> str:
    """Return a statement that reads tasks without their payloads, which may be long."""
    return statement.replace(_PAYLOAD, "NULL")


MATCHES = f"SELECT id, state FROM tasks{_MATCHING}ORDER BY id {_LIMIT}"

MATCHES_AMONG = f"""
SELECT id, state FROM tasks{_MATCHING}AND id IN (SELECT id FROM {given("id")}) ORDER BY id
"""

_OF_QUEUE = "queue = COALESCE(CAST(:queue AS TEXT), queue)"

# The tasks of a state that people look for first. Each reads an index in its order. The states that
# `RESTING` leaves out make its partial index usable.
RUNNING = f"""
SELECT {_TASK_WITHOUT_PAYLOAD} FROM runs AS open JOIN tasks ON tasks.id = open.task_id
WHERE open.outcome IS NULL AND {_OF_QUEUE} ORDER BY open.node, open.task_id {_LIMIT}
"""

# Ready ones are found in their lanes: see `statements.lanes`.
AMONG = f"""
SELECT {_TASK_WITHOUT_PAYLOAD} {_TASKS}
WHERE tasks.id = ANY (ARRAY(SELECT given.id FROM {given("id")}))
"""

FIRST_DUE = f"""
SELECT {_TASK_WITHOUT_PAYLOAD} {_TASKS}
WHERE state = 'scheduled' AND {_OF_QUEUE} ORDER BY run_at, tasks.id {_LIMIT}
"""

LAST_FINISHED = f"""
SELECT {_TASK_WITHOUT_PAYLOAD} {_TASKS}
WHERE state = CAST(:state AS TEXT) AND finished_at IS NOT NULL
ORDER BY finished_at DESC, tasks.id DESC {_LIMIT}
"""

RESTING = f"""
SELECT {_TASK_WITHOUT_PAYLOAD} {_TASKS}
WHERE queue = :queue AND state = CAST(:state AS TEXT) AND state <> 'ready' AND state <> 'running'
ORDER BY tasks.id DESC {_LIMIT}
"""

ASKING = f"""
SELECT {_TASK_WITHOUT_PAYLOAD} FROM handovers JOIN tasks ON tasks.id = handovers.task_id
    LEFT JOIN runs AS open ON open.uid = tasks.run_uid
WHERE handovers.question IS NOT NULL AND handovers.answer IS NULL AND state = 'held' AND {_OF_QUEUE}
ORDER BY handovers.task_id DESC {_LIMIT}
"""

FIRST_ID = "SELECT id FROM tasks ORDER BY id LIMIT 1"

LAST_ID = "SELECT id FROM tasks ORDER BY id DESC LIMIT 1"

SUBMITTED_FROM = "SELECT id, created_at FROM tasks WHERE id >= :id ORDER BY id LIMIT 1"

RUNS = f"SELECT {columns(Run)} FROM runs WHERE task_id = :task_id ORDER BY fence"

LAST_RUN = f"""
SELECT {columns(Run, output_tail="NULL")} FROM runs WHERE task_id = :task_id
ORDER BY fence DESC LIMIT 1
"""

# Columns that both tables have, and columns named differently from their field. Local claims of
# older schemas have no kill grace.
OPEN_RUN_COLUMNS = columns(
    OpenRun,
    **{name: f"runs.{name}" for name in ("fence", "liveness", "lease_ttl_ms")},
    kill_grace_ms=f"COALESCE(runs.kill_grace_ms, {KILL_GRACE_MS})",
    run_id="runs.id",
    run_uid="runs.uid",
    owner="runs.node",
    awaited="(awaited OR takes IS NOT NULL OR concurrency_key IS NOT NULL)",
)

_RUNS = f"SELECT {OPEN_RUN_COLUMNS} FROM runs JOIN tasks ON tasks.id = runs.task_id"

#: Open runs: a condition follows.
OPEN_RUNS = f"""
{_RUNS}
WHERE runs.outcome IS NULL AND """

OPEN_RUN = f"{OPEN_RUNS}runs.uid = :uid"

OPEN_RUNS_AMONG = f"""
{_RUNS}
WHERE {NAMED_IS_OPEN} AND runs.uid IN (SELECT uid FROM {given("uid")})
"""

KNOWN_RUNS = f"SELECT uid FROM runs WHERE uid IN (SELECT given.uid FROM {given('uid')})"

# Triggers keep these: see `store.counting_text`. The few that run are counted as open runs.
COUNTS = """
SELECT queue, state, CAST(sum(many) AS BIGINT) FROM counts WHERE queue <> ''
GROUP BY queue, state HAVING sum(many) > 0
UNION ALL SELECT queue, 'running', count(*) FROM runs JOIN tasks ON tasks.id = runs.task_id
    WHERE outcome IS NULL GROUP BY queue
ORDER BY queue, state
"""

OUTCOMES = """
SELECT state, CAST(sum(many) AS BIGINT) FROM counts WHERE queue = ''
GROUP BY state HAVING sum(many) > 0
"""

# A ready task's `run_at` is the time since when it is ready.
READY_SINCE = "SELECT queue, min(run_at) FROM tasks WHERE state = 'ready' GROUP BY queue"

READY_ANYWHERE_SINCE = """
SELECT queue, min(run_at) FROM tasks WHERE state = 'ready' AND lane = '' GROUP BY queue
"""

# In the order of `model.Leases`.
LEASES = """
SELECT count(*), min(lease_expires_at), min(lease_expires_at - lease_ttl_ms), min(last_heartbeat_at)
FROM runs WHERE outcome IS NULL
"""

PAUSED_QUEUES = "SELECT queue, reason, paused_at FROM paused_queues ORDER BY queue"

# Cast, as SQLite would plan a bare parameter anew each time: it may decide about a partial index.
PRUNABLE = """
SELECT count(*) FROM tasks WHERE state = CAST(:state AS TEXT) AND finished_at < :before
"""
