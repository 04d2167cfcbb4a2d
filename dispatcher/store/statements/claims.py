"""SQL that claims tasks, and takes a claim back. A limit is cast: see `supervisor`."""

from dispatcher.execution import KILL_GRACE_MS
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

# What tasks of the queue require, once each: a jump in an index to the next, however many tasks
# require the same. Of a task itself only a text is compared. `{fits}`: see `nodes.fits`.
_OF_QUEUE = "state = 'ready' AND requires IS NOT NULL AND queue = :queue"

READY = f"""
WITH RECURSIVE wanted (requires) AS (
    SELECT (SELECT requires FROM tasks WHERE {_OF_QUEUE} ORDER BY requires LIMIT 1)
    UNION ALL
    SELECT (SELECT tasks.requires FROM tasks WHERE {_OF_QUEUE} AND tasks.requires > wanted.requires
        ORDER BY tasks.requires LIMIT 1)
    FROM wanted WHERE wanted.requires IS NOT NULL
)
{_READY}AND queue = :queue
    AND (requires IS NULL OR requires IN (
        SELECT wanted.requires FROM wanted WHERE wanted.requires IS NOT NULL AND {{fits}}))
    AND {CLAIMS_WORK}
ORDER BY priority DESC, id LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE OF tasks SKIP LOCKED
"""

READY_TASK = f"""{_READY}AND id = :task_id FOR NO KEY UPDATE OF tasks SKIP LOCKED
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

BEGIN_ENDING = """
UPDATE runs SET ending = :ending, ending_reason = :reason
WHERE uid = (SELECT uid FROM runs
    WHERE uid = :uid AND outcome IS NULL AND ending IS NULL FOR UPDATE SKIP LOCKED)
"""
