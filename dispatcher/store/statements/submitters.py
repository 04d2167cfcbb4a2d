"""SQL of submits, single and bulk. A limit is cast: see `supervisor`."""

from functools import cache
from typing import Final

from dispatcher.new_task import NewTask
from dispatcher.store.statements.given import given

#: Columns that hold a field of `NewTask` as it is, or as JSON.
SUBMITTED_FIELDS: Final = tuple(
    name
    for name in NewTask.__struct_fields__
    if name not in {"delay_ms", "start_at", "payload", "environment", "after", "after_any"}
)


#: Columns that only some tasks of a batch may give.
_NEVER_NULL: Final = {
    "notify": "COALESCE(given.notify, FALSE)",
    "lane": "COALESCE(given.lane, '')",
}


@cache
def submit(columns: tuple[str, ...]) -> str:
    """Return the INSERT of tasks that set these columns; rows come back in their order.

    A task whose key is in use is left out.
    """
    values = (_NEVER_NULL.get(name, f"given.{name}") for name in columns)
    return f"""
INSERT INTO tasks ({", ".join(columns)})
SELECT {", ".join(values)}
FROM {given(*columns)} WHERE TRUE
ON CONFLICT (queue, key) WHERE key IS NOT NULL DO NOTHING
RETURNING id, queue, key
"""


SUBMIT_PAYLOADS = f"""
INSERT INTO payloads (task_id, payload) SELECT given.task_id, given.payload
FROM {given("task_id", "payload")}
"""

# The rows stay until the end of the transaction: see `locks.ENVIRONMENTS`.
ENVIRONMENT_IDS = f"""
SELECT environments.id, environments.checksum, environments.variables
FROM {given("checksum", "variables")} JOIN environments
    ON environments.checksum = given.checksum AND environments.variables = given.variables
ORDER BY environments.id FOR KEY SHARE OF environments
"""

ADD_ENVIRONMENTS = f"""
INSERT INTO environments (checksum, variables)
SELECT given.checksum, given.variables
FROM {given("checksum", "variables")}
RETURNING id, checksum, variables
"""

REMOVE_UNUSED_ENVIRONMENTS = f"""
DELETE FROM environments WHERE id IN (
    SELECT id FROM environments WHERE id IN (SELECT id FROM {given("id")})
        AND NOT EXISTS (SELECT 1 FROM tasks WHERE environment_id = environments.id)
    FOR UPDATE SKIP LOCKED)
"""

TASKS_WITH_KEYS = f"""
SELECT given.place, tasks.id, tasks.command, payloads.payload
FROM {given("place", "queue", "key")}
JOIN tasks ON tasks.queue = given.queue AND tasks.key = given.key
LEFT JOIN payloads ON payloads.task_id = tasks.id
"""

BEGIN_BULK = """
INSERT INTO bulk_submits (uid, state, seen_at, who) VALUES (:uid, 'open', :now, :who)
ON CONFLICT (uid) DO NOTHING
"""

SUBMITTER = "SELECT who FROM bulk_submits WHERE uid = :uid"

SEE_BULK = "UPDATE bulk_submits SET seen_at = :now WHERE uid = :uid AND state <> 'dropped'"

STAGE = """
INSERT INTO bulk_parts (uid, part, many, tasks, environments)
VALUES (:uid, :part, :many, :tasks, :environments)
ON CONFLICT (uid, part) DO NOTHING
"""

ACCEPT = """
UPDATE bulk_submits SET state = 'accepted', seen_at = :now WHERE uid = :uid AND state <> 'dropped'
"""

# The first statement of each step, so that steps of a client and of others follow each other.
LOCK_BULK = "SELECT state FROM bulk_submits WHERE uid = :uid FOR UPDATE"

BULK_STATE = "SELECT state FROM bulk_submits WHERE uid = :uid"

NEXT_PART = """
SELECT part, tasks, environments FROM bulk_parts
WHERE uid = :uid AND tasks IS NOT NULL AND part > :after
    AND EXISTS (SELECT 1 FROM bulk_submits WHERE uid = :uid AND state = 'accepted')
ORDER BY part LIMIT 1
"""

ADMITTED = """
UPDATE bulk_parts SET tasks = NULL, environments = NULL, submitted = :submitted
WHERE uid = :uid AND part = :part
"""

SUBMITTED = """
SELECT submitted FROM bulk_parts WHERE uid = :uid AND part = :part AND submitted IS NOT NULL
"""

# Bulk submits with parts that are not tasks yet.
ACCEPTED = """
SELECT uid FROM bulk_submits WHERE state = 'accepted'
    AND EXISTS (SELECT 1 FROM bulk_parts
        WHERE bulk_parts.uid = bulk_submits.uid AND tasks IS NOT NULL)
"""

DROP_BULK = "UPDATE bulk_submits SET state = 'dropped' WHERE uid = :uid"

REMOVE_PARTS = """
DELETE FROM bulk_parts WHERE uid = :uid AND part IN (
    SELECT part FROM bulk_parts WHERE uid = :uid ORDER BY part LIMIT CAST(:limit AS BIGINT))
"""

REMOVE_BULK = "DELETE FROM bulk_submits WHERE uid = :uid"

# The bulk submit with the longest silence that needs a step; `is_left`: a part to admit, otherwise
# something to remove. One that others have locked is not silent.
_IS_LEFT = """(state = 'accepted' AND EXISTS (SELECT 1 FROM bulk_parts
    WHERE bulk_parts.uid = bulk_submits.uid AND tasks IS NOT NULL))"""

IS_SILENT: Final = f"seen_at < :silent AND ({_IS_LEFT} OR state = 'dropped' OR seen_at < :gone)"

SILENT = f"""
SELECT uid, {_IS_LEFT} FROM bulk_submits WHERE {IS_SILENT}
ORDER BY seen_at LIMIT 1 FOR UPDATE OF bulk_submits SKIP LOCKED
"""

COMING = """
SELECT COALESCE(sum(many), 0) FROM bulk_parts WHERE tasks IS NOT NULL
    AND uid IN (SELECT uid FROM bulk_submits WHERE state = 'accepted')
"""
