"""SQL of hooks."""

from dispatcher.hooks import ORIGIN, Happened
from dispatcher.store.rows import columns
from dispatcher.store.statements.given import given

_HAPPENED = columns(
    Happened,
    id="events.id",
    event_reason="events.reason",
    task_id="events.task_id",
    fence="events.fence",
    labels="COALESCE(tasks.labels, '{}')",
)

HAPPENED = f"""
SELECT {_HAPPENED}
FROM {given("id")}
JOIN events ON events.id = given.id
LEFT JOIN tasks ON tasks.id = events.task_id
LEFT JOIN runs ON runs.task_id = events.task_id AND runs.fence = events.fence
LEFT JOIN nodes ON nodes.id = CASE WHEN events.kind = 'node_paused' THEN events.subject
    ELSE runs.node END
WHERE COALESCE(tasks.origin, '') NOT LIKE '{ORIGIN}%'
ORDER BY events.id
"""

# Once for each run.
UNKILLABLE = """
INSERT INTO events (at, kind, task_id, fence, before, who, reason)
SELECT :now, 'worker_unkillable', runs.task_id, runs.fence, 'running', :who, :reason
FROM runs WHERE runs.uid = :uid AND NOT EXISTS (SELECT 1 FROM events
    WHERE events.task_id = runs.task_id AND events.fence = runs.fence
        AND events.kind = 'worker_unkillable')
"""
