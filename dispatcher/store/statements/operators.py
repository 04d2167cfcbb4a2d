"""SQL of the operators' verbs. A limit is cast: see `supervisor`."""

from functools import cache
from typing import Final

from dispatcher.store.statements.given import given
from dispatcher.store.statements.moves import becomes
from dispatcher.store.statements.readers import OPEN_RUN

#: Columns of a task that an operator may change, apart from those that follow from them.
EDITABLE: Final = (
    *("state", "reason", "run_at", "queue", "priority", "max_attempts", "command", "cwd", "env"),
    *(
        "labels",
        "requires",
        "lease_ttl_ms",
        "run_timeout_ms",
        "stall_timeout_ms",
        "start_timeout_ms",
    ),
    *("queue_timeout_ms", "total_timeout_ms", "kill_grace_ms", "kill_signal", "kill_mode"),
    *("backoff_min_ms", "backoff_max_ms", "cooldown_ms", "max_deferrals", "max_orphans"),
)

_TOTAL_AT = "CAST(:total_ms AS BIGINT) + COALESCE(tasks.retried_at, tasks.created_at)"

# What follows from a state, or from an edit of a time-out.
_TIMES = f"""{becomes(":becomes", total_at=_TOTAL_AT, queue_ms="CAST(:queue_ms AS BIGINT)")},
    total_at = {_TOTAL_AT}"""


@cache
def edit(columns: tuple[str, ...]) -> str:
    """Return the UPDATE that sets these columns of a task that does not run.

    Between two states it moves only from `ready` to `scheduled`, or back.
    """
    sets = [f"{name} = :{name}" for name in ("fence", *columns) if name != "state"]
    if {"state", "run_at", "queue_timeout_ms", "total_timeout_ms"} & {*columns}:
        sets.append(_TIMES)
    return f"""
UPDATE tasks SET {", ".join(sets)}
WHERE id = :id AND state = :was AND fence = :fence AND state <> 'running' AND state <> 'succeeded'
    AND (state = :becomes OR ((state = 'ready' OR state = 'scheduled')
        AND (:becomes = 'ready' OR :becomes = 'scheduled')))
    AND NOT EXISTS (SELECT 1 FROM tasks AS other
        WHERE other.queue = :moved_to AND other.key = tasks.key AND other.id <> tasks.id)
"""


# A task before its run: see `locks`.
STATE = "SELECT state, run_uid, blockers, hold_kind FROM tasks WHERE id = :id FOR NO KEY UPDATE"

RUN = f"{OPEN_RUN} FOR UPDATE OF runs"

# With an ending, if one is given and there is none yet.
INTEND = """
UPDATE runs SET intent = :intent, intent_reason = :reason,
    ending = COALESCE(ending, CAST(:ending AS TEXT)),
    ending_reason = CASE WHEN ending IS NULL THEN CAST(:ending_reason AS TEXT)
        ELSE ending_reason END
WHERE uid = :uid AND outcome IS NULL
"""

PAUSE = """
INSERT INTO paused_queues (queue, reason, paused_at) VALUES (:queue, :reason, :now)
ON CONFLICT (queue) DO NOTHING
"""

RESUME = "DELETE FROM paused_queues WHERE queue = :queue"

# With the size of its payload in rows, as what is long takes long.
_ROWS = """COALESCE((SELECT octet_length(payload) FROM payloads
    WHERE task_id = tasks.id), 0) / 65536"""

# Its end has still to be passed on, or the run of a task finds its result.
_IS_NEEDED = """(tasks.awaited OR EXISTS (SELECT 1 FROM dependencies JOIN tasks AS children
    ON children.id = dependencies.task_id
    WHERE dependencies.parent_id = tasks.id AND children.finished_at IS NULL))"""

OLD = f"""
SELECT id, {_ROWS} FROM tasks WHERE state = CAST(:state AS TEXT) AND finished_at < :before
    AND NOT {_IS_NEEDED} AND NOT key_due
ORDER BY finished_at, id LIMIT CAST(:limit AS BIGINT) FOR UPDATE SKIP LOCKED
"""

FINISHED = f"""
SELECT tasks.id, {_ROWS} FROM {given("id", "place")} JOIN tasks ON tasks.id = given.id
WHERE tasks.finished_at IS NOT NULL AND NOT {_IS_NEEDED} ORDER BY place
"""

#: Events, which are short, that take as long as a row.
EVENTS_IN_A_ROW: Final = 8

# Counted to the limit: a task may have run very often.
MANY_RUNS = f"""
SELECT given.id, (SELECT count(*) FROM (SELECT 1 FROM runs WHERE runs.task_id = given.id
        LIMIT CAST(:limit AS BIGINT)) AS counted)
    + (SELECT count(*) FROM (SELECT 1 FROM events WHERE events.task_id = given.id
        LIMIT {EVENTS_IN_A_ROW} * CAST(:limit AS BIGINT)) AS counted) / {EVENTS_IN_A_ROW}
FROM {given("id")}
"""

# Locked, as they are deleted next: a beat that saw one open may have it locked, and wait for more.
OUTPUTS = f"""
SELECT output_path FROM {given("id")} JOIN runs ON runs.task_id = given.id
ORDER BY runs.task_id, runs.id FOR UPDATE OF runs
"""

SOME_RUNS = "SELECT id, output_path FROM runs WHERE task_id = :id LIMIT CAST(:limit AS BIGINT)"

DELETE_SOME_EVENTS = f"""
DELETE FROM events WHERE id IN (SELECT id FROM events WHERE task_id = :id
    ORDER BY id LIMIT {EVENTS_IN_A_ROW} * CAST(:limit AS BIGINT))
"""

DELETE = f"""
DELETE FROM tasks WHERE id IN (SELECT id FROM {given("id")}) RETURNING environment_id
"""

DELETE_RUNS = f"DELETE FROM runs WHERE id IN (SELECT id FROM {given('id')})"
