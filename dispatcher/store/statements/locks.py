"""SQL that locks rows of a shared store, always in one order (ADR 27); an embedded one needs none.

All that a transaction may wait for it locks by its first statements: tasks, lowest id first, then
runs, lowest task first; later keys, then environments, lowest id first. What it searches for it
locks without waiting (SKIP LOCKED), and a changed row then has to match again. While another
transaction does not end, a daemon locks what it can name without waiting, too (`FREE_…`).

The lock of a task is NO KEY UPDATE, as that of its changes: PostgreSQL takes KEY SHARE of it for a
run that is changed twice in a transaction.
"""

from dispatcher.store.statements.given import NAMED_IS_OPEN, given

_NAMED = given("task_id", "uid")

# Waits for the claims of a node, each of which shares this lock.
NODE = "SELECT id FROM nodes WHERE id = :node FOR NO KEY UPDATE"

# No row of a node that is NULL. What is named becomes an array before any row is looked at: of a
# subquery the planner may ask again for each open run of the store, if none was open when the table
# was last analysed.
TASKS = f"""
SELECT id FROM tasks WHERE id = ANY (ARRAY(
    SELECT given.task_id FROM {_NAMED}
    UNION ALL SELECT (SELECT task_id FROM runs WHERE uid = given.uid) FROM {_NAMED}
    UNION ALL SELECT task_id FROM runs WHERE node = CAST(:node AS TEXT) AND outcome IS NULL))
ORDER BY id FOR NO KEY UPDATE
"""

FREE_TASKS = f"{TASKS.rstrip()} SKIP LOCKED\n"

# A sum is no index's order: these runs are found by their uids alone.
NAMED_RUNS = f"""
SELECT uid, task_id FROM runs WHERE {NAMED_IS_OPEN} AND uid = ANY (ARRAY(
    SELECT (SELECT run_uid FROM tasks WHERE id = given.task_id) FROM {_NAMED}
    UNION ALL SELECT given.uid FROM {_NAMED}
    UNION ALL SELECT uid FROM runs WHERE node = CAST(:node AS TEXT) AND outcome IS NULL))
ORDER BY task_id + 0
"""

OPEN_RUNS = f"{NAMED_RUNS.rstrip()} FOR UPDATE OF runs\n"

FREE_RUNS = f"{NAMED_RUNS.rstrip()} FOR UPDATE OF runs SKIP LOCKED\n"

# Whether others have locked the row of a node: otherwise it is locked now.
NODE_IS_HELD = f"""
SELECT id FROM nodes WHERE id = :node AND id NOT IN ({NODE} SKIP LOCKED)
"""

_OF_NODE = "outcome IS NULL AND node = :node"


def but(statement: str) -> str:
    """Return a change of the open runs of a node that leaves out those `given` by their uids."""
    left_out = f"{_OF_NODE} AND uid NOT IN (SELECT given.uid FROM {given('uid')})"
    return statement.replace(_OF_NODE, left_out)


# A row that another transaction adds cannot be locked, but its key can: by one of 1024 numbers, as
# a server has room for few such locks.
_KEYS = """
SELECT pg_advisory_xact_lock(number) FROM (
    SELECT DISTINCT hashtextextended({queue} || ' ' || {key}, 1) & 1023 AS number
    FROM {rows} ORDER BY number) AS numbers
"""

KEYS = _KEYS.format(queue="given.queue", key="given.key", rows=given("queue", "key"))

# Of tasks that are deleted, or move to another queue.
KEYS_OF = _KEYS.format(
    queue="COALESCE(CAST(:queue AS TEXT), tasks.queue)",
    key="tasks.key",
    rows=f"{given('id')} JOIN tasks ON tasks.id = given.id WHERE tasks.key IS NOT NULL",
)

# Before tasks of theirs are deleted: of two who delete the last tasks of one, the second sees it.
ENVIRONMENTS = f"""
SELECT id FROM environments
WHERE id IN (SELECT environment_id FROM {given("id")} JOIN tasks ON tasks.id = given.id)
ORDER BY id FOR NO KEY UPDATE
"""

# After that: a submit that has found one keeps it until it is over.
UNUSED_ENVIRONMENTS = f"""
SELECT id FROM environments WHERE id IN (SELECT id FROM {given("id")})
    AND NOT EXISTS (SELECT 1 FROM tasks WHERE environment_id = environments.id)
ORDER BY id FOR UPDATE
"""
