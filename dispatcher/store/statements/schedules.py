"""SQL of schedules. A limit is cast: see `supervisor`."""

from typing import Final

from dispatcher.schedules import ScheduleChange, ScheduleState
from dispatcher.store.rows import columns
from dispatcher.store.statements.given import given

_STATE = columns(ScheduleState)

ADD = f"""
INSERT INTO schedules (name, definition, settled_at)
SELECT given.name, given.definition, given.settled_at
FROM {given("name", "definition", "settled_at")} WHERE TRUE
ON CONFLICT (name) DO NOTHING
"""

# Nobody waits for a schedule that another daemon settles.
TAKE = f"""
SELECT {columns(ScheduleState, name="schedules.name")}
FROM {given("name")} JOIN schedules ON schedules.name = given.name
FOR UPDATE OF schedules SKIP LOCKED
"""

EVERY = f"SELECT {_STATE} FROM schedules ORDER BY name"

SETTLE = """
UPDATE schedules SET definition = :definition, settled_at = :settled_at,
    fired_at = COALESCE(CAST(:fired_at AS BIGINT), fired_at),
    task_id = COALESCE(CAST(:task_id AS BIGINT), task_id),
    note = :note, noted_at = CASE WHEN CAST(:note AS TEXT) IS NOT NULL THEN :now END
WHERE name = :name
"""

CHANGE: Final = {
    ScheduleChange.PAUSE: """
UPDATE schedules SET paused = :reason WHERE name = :name AND paused IS NULL
""",
    # Times that passed meanwhile are not missed.
    ScheduleChange.RESUME: """
UPDATE schedules SET paused = NULL,
    settled_at = CASE WHEN settled_at < :at THEN :at ELSE settled_at END
WHERE name = :name AND paused IS NOT NULL
""",
    ScheduleChange.FORGET: "DELETE FROM schedules WHERE name = :name",
}

UNFINISHED = """
SELECT id, state FROM tasks
WHERE origin = :origin AND finished_at IS NULL AND state <> 'held'
ORDER BY id DESC LIMIT CAST(:limit AS BIGINT)
"""
