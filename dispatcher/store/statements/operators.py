"""SQL of the operators' verbs. A limit is cast: see `supervisor`."""

from functools import cache
from typing import Final

#: Columns of a task that an operator may change, apart from those that follow from them.
EDITABLE: Final = (
    *("state", "reason", "run_at", "queue", "priority", "max_attempts", "command", "cwd", "env"),
    *("labels", "lease_ttl_ms", "run_timeout_ms", "stall_timeout_ms", "start_timeout_ms"),
    *("queue_timeout_ms", "total_timeout_ms", "kill_grace_ms", "kill_signal", "kill_mode"),
)

_TOTAL_AT = "CAST(:total_ms AS BIGINT) + COALESCE(retried_at, created_at)"

# `claim_by` is NULL unless the task is ready and has a queue time-out.
_TIMES = f""",
    total_at = {_TOTAL_AT},
    fails_at = CASE WHEN finished_at IS NOT NULL THEN NULL
        WHEN CAST(:claim_by AS BIGINT) IS NULL OR {_TOTAL_AT} <= :claim_by
        THEN {_TOTAL_AT} ELSE :claim_by END"""


@cache
def edit(columns: tuple[str, ...]) -> str:
    """Return the UPDATE that sets these columns of a task that does not run.

    Between two states it moves only from `ready` to `scheduled`, or back.
    """
    sets = ", ".join(f"{name} = :{name}" for name in ("fence", *columns))
    if {"state", "run_at", "queue_timeout_ms", "total_timeout_ms"} & {*columns}:
        sets += _TIMES
    return f"""
UPDATE tasks SET {sets}
WHERE id = :id AND state = :was AND fence = :fence AND state <> 'running' AND state <> 'succeeded'
    AND (state = :becomes OR ((state = 'ready' OR state = 'scheduled')
        AND (:becomes = 'ready' OR :becomes = 'scheduled')))
    AND NOT EXISTS (SELECT 1 FROM tasks AS other
        WHERE other.queue = :moved_to AND other.key = tasks.key AND other.id <> tasks.id)
"""


STATE = "SELECT state, run_uid FROM tasks WHERE id = :id"

INTEND = """
UPDATE tasks SET intent = :intent, intent_reason = :reason
WHERE id = (SELECT task_id FROM runs WHERE uid = :uid) AND run_uid = :uid
"""

CANCEL = """
UPDATE tasks SET state = 'cancelled', reason = :reason, finished_at = :now, fails_at = NULL
WHERE id = :id
"""

RETRY = """
UPDATE tasks SET state = 'ready', reason = 'retried by operator', run_at = :now,
    finished_at = NULL, attempts_used = 0, deferrals = 0, orphans = 0,
    retried_at = :now, total_at = :now + total_timeout_ms, fails_at = CASE
        WHEN queue_timeout_ms IS NULL OR total_timeout_ms <= queue_timeout_ms
        THEN :now + total_timeout_ms ELSE :now + queue_timeout_ms END
WHERE id = :id
"""

RELEASE = """
UPDATE tasks SET state = 'ready', reason = 'released by operator', run_at = :now, fails_at = CASE
        WHEN queue_timeout_ms IS NULL OR total_at <= :now + queue_timeout_ms THEN total_at
        ELSE :now + queue_timeout_ms END
WHERE id = :id AND attempts_used < max_attempts
"""

PAUSE = """
INSERT INTO paused_queues (queue, reason, paused_at) VALUES (:queue, :reason, :now)
ON CONFLICT (queue) DO NOTHING
"""

RESUME = "DELETE FROM paused_queues WHERE queue = :queue"

# With the size of its payload in rows, as what is long takes long.
OLD = """
SELECT id, COALESCE((SELECT octet_length(payload) FROM payloads WHERE task_id = id), 0) / 65536
FROM tasks WHERE state = CAST(:state AS TEXT) AND finished_at < :before
ORDER BY finished_at, id LIMIT CAST(:limit AS BIGINT)
"""

SIZE = """
SELECT COALESCE(sum(octet_length(payload)), 0) / 65536 FROM payloads WHERE task_id = :task_id
"""

OLD_RUNS = """
SELECT id, output_path FROM runs WHERE task_id = :task_id LIMIT CAST(:limit AS BIGINT)
"""

DELETE = "DELETE FROM tasks WHERE id = :id RETURNING environment_id"

DELETE_RUN = "DELETE FROM runs WHERE id = :id"
