"""SQL of the one question that a resting daemon asks: whether there is work, and when."""

from typing import Final

from dispatcher.store.statements.submitters import IS_SILENT
from dispatcher.store.statements.supervisor import (
    HAS_ENDED,
    NEXT_DUE,
    NEXT_FAILURE,
    NEXT_TAKEOVER,
    READY_QUEUES,
    TAKEABLE,
)

# The parts are those of the statements that find the work itself, without their locks. The first
# one is whether a task of the next queue with ready ones needs nothing but a slot; NULL: there is
# no such queue.
NEXT_WORK: Final = f"""
SELECT (SELECT EXISTS (SELECT 1 FROM tasks
        WHERE state = 'ready' AND tasks.queue = soonest.queue AND tasks.lane = '')
    FROM ({READY_QUEUES}) AS soonest),
    EXISTS ({TAKEABLE})
    OR EXISTS ({HAS_ENDED})
    OR EXISTS (SELECT 1 FROM tasks WHERE key_due)
    OR EXISTS (SELECT 1 FROM bulk_submits WHERE {IS_SILENT}),
    ({NEXT_DUE}), ({NEXT_FAILURE}), ({NEXT_TAKEOVER})
"""
