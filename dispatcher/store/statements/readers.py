"""SQL that only reads. A limit is cast: see `supervisor`."""

from dispatcher.execution import OpenRun
from dispatcher.model import Node, Run, Task, TaskState
from dispatcher.store.rows import columns

_TASK = columns(Task, payload="(SELECT payload FROM payloads WHERE task_id = id)")

TASK = f"SELECT {_TASK} FROM tasks WHERE id = :id"

TASK_WITHOUT_PAYLOAD = f"SELECT {columns(Task, payload='NULL')} FROM tasks WHERE id = :id"

ENVIRONMENT = "SELECT variables FROM environments WHERE id = :id"

ENVIRONMENT_SIZE = "SELECT octet_length(variables) FROM environments WHERE id = :id"

# A state that is not wanted is NULL, which equals nothing. The casts give a parameter that may be
# NULL a type.
_MATCHING = f"""
FROM tasks
WHERE state IN ({", ".join(f":{state}" for state in TaskState)})
    AND queue = COALESCE(CAST(:queue AS TEXT), queue)
    AND id > :after_id AND id < :before_id
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

TASKS = f"SELECT {_TASK} {_MATCHING}ORDER BY id DESC {_LIMIT}"

TASKS_OLDEST_FIRST = f"SELECT {_TASK} {_MATCHING}ORDER BY id {_LIMIT}"

MATCHES = f"SELECT id, state {_MATCHING}ORDER BY id {_LIMIT}"

_OF_QUEUE = "queue = COALESCE(CAST(:queue AS TEXT), queue)"

# The tasks of a state that people look for first. Each reads an index in its order. The states that
# `RESTING` leaves out make its partial index usable.
RUNNING = f"""
SELECT {_TASK} FROM tasks WHERE state = 'running' AND {_OF_QUEUE} ORDER BY owner, id {_LIMIT}
"""

NEXT = f"""
SELECT {_TASK} FROM tasks WHERE state = 'ready' AND queue = :queue
ORDER BY priority DESC, id {_LIMIT}
"""

FIRST_DUE = f"""
SELECT {_TASK} FROM tasks WHERE state = 'scheduled' AND {_OF_QUEUE} ORDER BY run_at, id {_LIMIT}
"""

LAST_FINISHED = f"""
SELECT {_TASK} FROM tasks WHERE state = CAST(:state AS TEXT) AND finished_at IS NOT NULL
ORDER BY finished_at DESC, id DESC {_LIMIT}
"""

RESTING = f"""
SELECT {_TASK} FROM tasks
WHERE queue = :queue AND state = CAST(:state AS TEXT) AND state <> 'ready' AND state <> 'running'
ORDER BY id DESC {_LIMIT}
"""

# In two parts, each a range of the index.
BEFORE = f"""
SELECT count(*) FROM (
    SELECT 1 FROM tasks WHERE state = 'ready' AND queue = :queue AND priority > :priority
    UNION ALL
    SELECT 1 FROM tasks
    WHERE state = 'ready' AND queue = :queue AND priority = :priority AND id < :id
    {_LIMIT})
"""

FIRST_ID = "SELECT id FROM tasks ORDER BY id LIMIT 1"

LAST_ID = "SELECT id FROM tasks ORDER BY id DESC LIMIT 1"

SUBMITTED_FROM = "SELECT id, created_at FROM tasks WHERE id >= :id ORDER BY id LIMIT 1"

# The lease and the beats of an open run are in its task's row.
_LIVE = ("last_heartbeat_at", "lease_expires_at", "progress", "note")
_OF_RUN = {
    **{name: f"runs.{name}" for name in ("id", "fence", "reason")},
    **{name: f"COALESCE(tasks.{name}, runs.{name})" for name in _LIVE},
}
_OF_TASK = """
FROM runs LEFT JOIN tasks ON tasks.id = runs.task_id AND tasks.run_uid = runs.uid
WHERE runs.task_id = :task_id
"""

RUNS = f"SELECT {columns(Run, **_OF_RUN)} {_OF_TASK} ORDER BY runs.fence"

LAST_RUN = f"""
SELECT {columns(Run, **_OF_RUN, output_tail="NULL")} {_OF_TASK} ORDER BY runs.fence DESC LIMIT 1
"""

# Columns that both tables have, and columns named differently from their field.
OPEN_RUN_COLUMNS = columns(
    OpenRun,
    task_id="tasks.id",
    run_id="runs.id",
    run_uid="runs.uid",
    fence="runs.fence",
    owner="runs.node",
    kill_grace_ms="runs.kill_grace_ms",
    last_heartbeat_at="tasks.last_heartbeat_at",
    lease_expires_at="tasks.lease_expires_at",
)

OPEN_RUN = f"""
SELECT {OPEN_RUN_COLUMNS}
FROM runs JOIN tasks ON tasks.id = runs.task_id
WHERE runs.uid = :uid AND runs.outcome IS NULL
"""

RUN_IS_KNOWN = "SELECT 1 FROM runs WHERE uid = :uid"

# Each part reads an index alone, except for the few that run.
COUNTS = """
SELECT queue, state, count(*) FROM tasks WHERE state <> 'ready' AND state <> 'running'
GROUP BY queue, state
UNION ALL SELECT queue, 'ready', count(*) FROM tasks WHERE state = 'ready' GROUP BY queue
UNION ALL SELECT queue, 'running', count(*) FROM tasks WHERE state = 'running' GROUP BY queue
ORDER BY queue, state
"""

# A ready task's `run_at` is the time since when it is ready.
READY_SINCE = "SELECT queue, min(run_at) FROM tasks WHERE state = 'ready' GROUP BY queue"

OUTCOMES = "SELECT outcome, count(*) FROM runs WHERE outcome IS NOT NULL GROUP BY outcome"

# In the order of `model.Leases`.
LEASES = """
SELECT count(*), min(lease_expires_at), min(lease_expires_at - lease_ttl_ms), min(last_heartbeat_at)
FROM tasks WHERE state = 'running'
"""

NODES = f"SELECT {columns(Node)} FROM nodes ORDER BY hostname, id"

PAUSED_QUEUES = "SELECT queue, reason, paused_at FROM paused_queues ORDER BY queue"

# Cast, as SQLite would plan a bare parameter anew each time: it may decide about a partial index.
PRUNABLE = """
SELECT count(*) FROM tasks WHERE state = CAST(:state AS TEXT) AND finished_at < :before
"""
