"""SQL that claims tasks, and takes a claim back. A limit is cast: see `supervisor`."""

from dispatcher.store.rows import Ready, columns

# An environment whose row was removed by hand is "", which is damage.
_ENVIRONMENT = """
CASE WHEN environment_id IS NOT NULL
    THEN COALESCE((SELECT variables FROM environments WHERE id = environment_id), '') END
"""

_READY_COLUMNS = columns(
    Ready,
    task_id="id",
    payload="(SELECT payload FROM payloads WHERE task_id = id)",
    environment=_ENVIRONMENT,
)

_READY = f"""
SELECT {_READY_COLUMNS}
FROM tasks WHERE state = 'ready' AND queue NOT IN (SELECT queue FROM paused_queues)
"""

READY = f"""{_READY}AND queue = :queue
ORDER BY priority DESC, id LIMIT CAST(:limit AS BIGINT)
"""

READY_TASK = f"""{_READY}AND id = :task_id
"""

HOLD = """
UPDATE tasks SET state = 'held', reason = :reason, fails_at = total_at WHERE id = :id
"""

LAST_OUTCOME = """
SELECT outcome FROM runs WHERE task_id = :task_id ORDER BY fence DESC LIMIT 1
"""

# Without runs that had no process, and those whose leftovers may go on.
EARLIER_OUTPUTS = """
SELECT output_path FROM runs
WHERE task_id = :task_id AND node = :owner AND left_alone IS NULL
    AND (pid IS NOT NULL OR (outcome <> 'released' AND outcome <> 'spawn_failed'))
ORDER BY fence DESC
"""

CLAIM = """
UPDATE tasks SET state = 'running', reason = 'claimed', fence = :fence, lock = :lock,
    owner = :owner, run_uid = :uid, lease_ttl_ms = :lease_ttl_ms,
    lease_expires_at = :lease_expires_at, takeover_at = :takeover_at,
    deadline_at = :deadline_at, fails_at = NULL
WHERE id = :task_id
"""

OPEN = """
INSERT INTO runs (task_id, uid, attempt, fence, lock, node, claimed_at, output_path, kill_grace_ms)
VALUES (:task_id, :uid, :attempt, :fence, :lock, :owner, :now, :output_path, :kill_grace_ms)
"""

BEGIN_ENDING = """
UPDATE tasks SET ending = :ending, ending_reason = :reason, reason = :reason, lock = :lock
WHERE id = (SELECT task_id FROM runs WHERE uid = :uid) AND run_uid = :uid AND ending IS NULL
"""
