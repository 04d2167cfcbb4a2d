"""SQL of the one question that a resting daemon asks: whether there is work, and when."""

from typing import Final

from dispatcher.store.statements.submitters import IS_SILENT
from dispatcher.store.statements.supervisor import (
    IS_ABANDONED,
    IS_STRANDED,
    NEXT_DUE,
    NEXT_FAILURE,
    NEXT_TAKEOVER,
    READY_QUEUES,
)

# The parts are those of the statements that find the work itself, without their locks.
NEXT_WORK: Final = f"""
SELECT EXISTS ({READY_QUEUES})
    OR EXISTS (SELECT 1 FROM runs WHERE outcome IS NULL AND {IS_ABANDONED})
    OR EXISTS (SELECT 1 FROM runs WHERE outcome IS NULL AND {IS_STRANDED})
    OR EXISTS (SELECT 1 FROM bulk_submits WHERE {IS_SILENT}),
    ({NEXT_DUE}), ({NEXT_FAILURE}), ({NEXT_TAKEOVER})
"""
