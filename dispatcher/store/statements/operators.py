"""SQL of the operators' verbs. A limit is cast: see `supervisor`."""

from __future__ import annotations

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
    total_at = :now + total_timeout_ms, fails_at = CASE
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
