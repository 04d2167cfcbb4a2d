"""SQL of workers' messages, each guarded by the lock in the statement itself."""

# Lease and liveness change together. Only a changed report is progress: a worker that repeats
# itself may be stuck. A local claim has no node: its `takeover_at` is the expiry. It alone has a
# deadline, which no beat moves.
HEARTBEAT = """
UPDATE tasks SET last_heartbeat_at = :now,
    lease_expires_at = CASE WHEN deadline_at < :now + lease_ttl_ms THEN deadline_at
                       ELSE :now + lease_ttl_ms END,
    takeover_at = CASE WHEN substr(owner, 1, 6) <> 'local:' THEN takeover_at
                  WHEN deadline_at < :now + lease_ttl_ms THEN deadline_at
                  ELSE :now + lease_ttl_ms END,
    progress = COALESCE(:progress, progress), note = COALESCE(:note, note),
    progressed_at = CASE WHEN COALESCE(:progress, progress) IS DISTINCT FROM progress
        OR COALESCE(:note, note) IS DISTINCT FROM note THEN :now ELSE progressed_at END
WHERE id = :task_id AND lock = :lock AND ending IS NULL
    AND (deadline_at IS NULL OR deadline_at > :now)
RETURNING lease_expires_at
"""

# A note alone proves no life: it moves no expiry and stamps no liveness.
NOTE = """
UPDATE tasks SET note = :note,
    progressed_at = CASE WHEN :note IS DISTINCT FROM note THEN :now ELSE progressed_at END
WHERE id = :task_id AND lock = :lock AND ending IS NULL
    AND (deadline_at IS NULL OR deadline_at > :now)
"""

LOCK_OF = "SELECT task_id, lock FROM runs WHERE uid = :uid"

# Facts about a refused lock: the task now, and the run whose lock it was.
PRESENTED = """
SELECT tasks.state, tasks.run_uid, runs.uid, coalesce(
    (SELECT attempt FROM runs WHERE task_id = tasks.id ORDER BY fence DESC LIMIT 1), 0)
FROM tasks
LEFT JOIN runs ON runs.task_id = tasks.id AND runs.lock = :lock
WHERE tasks.id = :task_id
"""

DECLARE = """
UPDATE runs SET declared = :declared, declared_reason = :reason, declared_delay_ms = :delay_ms,
    declared_retry = :retry, result = :result
WHERE uid = (SELECT run_uid FROM tasks WHERE id = :task_id AND lock = :lock AND ending IS NULL
             AND (deadline_at IS NULL OR deadline_at > :now))
    AND declared IS NULL
"""

DECLARED = """
SELECT declared, declared_reason, declared_delay_ms, declared_retry, result
FROM runs WHERE task_id = :task_id AND lock = :lock AND declared IS NOT NULL
"""

DECLARED_UIDS = """
SELECT uid FROM runs WHERE declared IS NOT NULL AND outcome IS NULL AND node = :node
"""

RENEW_SHORT = """
UPDATE tasks SET lease_expires_at = :now + lease_ttl_ms
WHERE state = 'running' AND owner = :node AND lease_ttl_ms < 2 * CAST(:gap_ms AS BIGINT)
"""
