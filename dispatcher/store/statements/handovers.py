"""SQL of what runs leave for the next ones. Rows are locked last, by those who hold task or run."""

from typing import Final

from dispatcher.handover import Handover
from dispatcher.store.rows import columns
from dispatcher.store.statements.given import given

CHECKPOINT: Final = f"""
INSERT INTO handovers (task_id, checkpoint, checkpoint_at)
SELECT given.task_id, given.checkpoint, :now
FROM {given("task_id", "checkpoint")} WHERE TRUE
ON CONFLICT (task_id) DO UPDATE
SET checkpoint = excluded.checkpoint, checkpoint_at = excluded.checkpoint_at
"""

ASK: Final = """
INSERT INTO handovers (task_id, question, kind, asked_at)
VALUES (:task_id, :question, :kind, :now)
ON CONFLICT (task_id) DO UPDATE SET question = excluded.question, kind = excluded.kind,
    asked_at = excluded.asked_at, answer = NULL, answered_at = NULL, answered_by = NULL
"""

ANSWER: Final = """
INSERT INTO handovers (task_id, answer, answered_at, answered_by)
VALUES (:task_id, :answer, :now, :answered_by)
ON CONFLICT (task_id) DO UPDATE SET answer = excluded.answer,
    answered_at = excluded.answered_at, answered_by = excluded.answered_by
"""

ASK_NO_MORE: Final = """
UPDATE handovers SET question = NULL, kind = NULL, asked_at = NULL
WHERE task_id = :task_id AND question IS NOT NULL AND answer IS NULL
"""

HANDOVERS: Final = f"""
SELECT {columns(Handover, task_id="handovers.task_id")}
FROM {given("task_id")} JOIN handovers ON handovers.task_id = given.task_id
"""

# What the next run of a task finds: of its last run, and what that left.
PREVIOUS: Final = f"""
SELECT given.task_id, runs.outcome, runs.exit_code, runs.signal, runs.reason, runs.node,
    runs.output_path, handovers.checkpoint, handovers.question, handovers.kind, handovers.answer,
    handovers.answered_by
FROM {given("task_id")}
    LEFT JOIN runs ON runs.task_id = given.task_id
        AND runs.fence = (SELECT max(fence) FROM runs WHERE runs.task_id = given.task_id)
    LEFT JOIN handovers ON handovers.task_id = given.task_id
"""
