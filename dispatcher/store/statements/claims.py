"""SQL that claims tasks, and takes a claim back. A limit is cast: see `supervisor`."""

from dispatcher.execution import KILL_GRACE_MS
from dispatcher.lanes import BEHIND
from dispatcher.store.rows import Ready, columns
from dispatcher.store.statements.given import given
from dispatcher.store.statements.nodes import CLAIMS_WORK

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
    kill_grace_ms=f"COALESCE(kill_grace_ms, {KILL_GRACE_MS})",
)

_READY = f"""
SELECT {_READY_COLUMNS}
FROM tasks WHERE state = 'ready' AND queue NOT IN (SELECT queue FROM paused_queues)
"""

# Of a queue whose ready tasks need nothing but a slot: see `statements.lanes` for the others.
READY = f"""
{_READY}AND queue = :queue AND lane = ''
    AND NOT EXISTS (SELECT 1 FROM tasks WHERE state = 'ready' AND queue = :queue AND lane > '')
    AND {CLAIMS_WORK}
ORDER BY rank, id LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE OF tasks SKIP LOCKED
"""

# Those that were found in lanes, unless others have locked or changed them since. The queue is no
# condition of an index, by which all its ready tasks would be read.
READY_AMONG = f"""
{_READY}AND COALESCE(queue, '') = :queue AND {CLAIMS_WORK}
    AND id = ANY (ARRAY(SELECT given.id FROM {given("id")}))
FOR NO KEY UPDATE OF tasks SKIP LOCKED
"""

READY_TASK = f"""{_READY}AND id = :task_id AND lane <> '{BEHIND}'
FOR NO KEY UPDATE OF tasks SKIP LOCKED
"""

# Without runs that had no process, and those whose leftovers may go on.
EARLIER_OUTPUTS = f"""
SELECT runs.task_id, output_path FROM {given("task_id")} JOIN runs ON runs.task_id = given.task_id
WHERE node = :owner AND left_alone IS NULL
    AND (pid IS NOT NULL OR (outcome <> 'released' AND outcome <> 'spawn_failed'))
ORDER BY runs.task_id, fence DESC
"""

_OPENED = (
    *("task_id", "uid", "attempt", "fence", "lock", "liveness", "lease_ttl_ms", "output_path"),
    *("lease_expires_at", "takeover_at", "deadline_at", "kill_grace_ms"),
)

OPEN = f"""
INSERT INTO runs (node, claimed_at, {", ".join(_OPENED)})
SELECT :owner, :now, {", ".join(f"given.{name}" for name in _OPENED)}
FROM {given(*_OPENED)}
RETURNING id, uid
"""
