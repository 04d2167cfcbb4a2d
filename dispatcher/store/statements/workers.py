"""SQL of workers' messages, each guarded by the lock in the statement itself."""

from dispatcher.store.engine import FORGETTABLE
from dispatcher.store.statements.given import NAMED_IS_OPEN, bounded, given

# Whether the lock of an open run allows a write: it is not ending, and before its deadline.
_IS_OWNER = "ending IS NULL AND (deadline_at IS NULL OR deadline_at > :now)"
_HOLDS = f"task_id = :task_id AND lock = :lock AND outcome IS NULL AND {_IS_OWNER}"

# No beat moves a local claim's deadline.
_RENEWED = f":now + {bounded('lease_ttl_ms')}"
_EXPIRY = f"CASE WHEN deadline_at < {_RENEWED} THEN deadline_at ELSE {_RENEWED} END"

# Lease and liveness change together. Only a changed report is progress: a worker that repeats
# itself may be stuck. A local claim has no node: its `takeover_at` is the expiry.
HEARTBEAT = f"""
UPDATE runs SET last_heartbeat_at = :now, lease_expires_at = {_EXPIRY},
    takeover_at = CASE WHEN substr(node, 1, 6) = 'local:' THEN {_EXPIRY} ELSE takeover_at END,
    progress = COALESCE(given.progress, runs.progress), note = COALESCE(given.note, runs.note),
    progressed_at = CASE WHEN COALESCE(given.progress, runs.progress)
            IS DISTINCT FROM runs.progress
        OR COALESCE(given.note, runs.note) IS DISTINCT FROM runs.note
        THEN :now ELSE progressed_at END
FROM {given("task_id", "lock", "progress", "note")}
WHERE runs.uid = (SELECT run_uid FROM tasks WHERE id = given.task_id)
    AND runs.lock = given.lock AND {NAMED_IS_OPEN} AND {_IS_OWNER}
RETURNING runs.task_id, runs.lease_expires_at
"""

# A note alone proves no life: it moves no expiry and stamps no liveness.
NOTE = f"""
UPDATE runs SET note = :note,
    progressed_at = CASE WHEN :note IS DISTINCT FROM note THEN :now ELSE progressed_at END
WHERE {_HOLDS}
"""

LOCKS_OF = f"""
SELECT uid, task_id, lock FROM runs
WHERE {NAMED_IS_OPEN} AND uid IN (SELECT given.uid FROM {given("uid")})
"""

# Facts about a refused lock: the task now, and the run whose lock it was.
PRESENTED = """
SELECT tasks.state, tasks.run_uid, runs.uid, coalesce(
    (SELECT attempt FROM runs WHERE task_id = tasks.id ORDER BY fence DESC LIMIT 1), 0)
FROM tasks
LEFT JOIN runs ON runs.task_id = tasks.id AND runs.lock = :lock
WHERE tasks.id = :task_id
"""

DECLARE = f"""
UPDATE runs SET declared = :declared, declared_reason = :reason, declared_delay_ms = :delay_ms,
    declared_retry = :retry, result = :result
WHERE {_HOLDS} AND declared IS NULL
"""

DECLARED = """
SELECT declared, declared_reason, declared_delay_ms, declared_retry, result
FROM runs WHERE task_id = :task_id AND lock = :lock AND declared IS NOT NULL
"""

DECLARED_UIDS = """
SELECT uid FROM runs WHERE declared IS NOT NULL AND outcome IS NULL AND node = :node
"""

RENEW_SHORT = f"""
UPDATE runs SET lease_expires_at = {_RENEWED}
WHERE uid IN (SELECT uid FROM runs
    WHERE outcome IS NULL AND node = :node AND lease_ttl_ms < 2 * CAST(:gap_ms AS BIGINT)
    ORDER BY task_id FOR UPDATE)
{FORGETTABLE}"""
