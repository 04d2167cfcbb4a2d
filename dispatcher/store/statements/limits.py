"""SQL of named limits, and of the limits of queues. A limit of rows is cast: see `supervisor`."""

from typing import Final

from dispatcher.named_limits import Closing
from dispatcher.store.rows import columns
from dispatcher.store.statements.given import given

_CLOSINGS: Final = f"SELECT {columns(Closing)} FROM limits"

# Without what is locked for other things: see `keys`.
CLOSINGS: Final = f"{_CLOSINGS} WHERE substr(name, 1, 1) <> ':' ORDER BY name"

AMONG: Final = f"{_CLOSINGS} WHERE name IN (SELECT given.name FROM {given('name')})"

#: For a claim: those with which nobody else claims.
LOCK: Final = f"{AMONG} ORDER BY name FOR NO KEY UPDATE SKIP LOCKED"

LOCK_AND_WAIT: Final = f"{AMONG} ORDER BY name FOR NO KEY UPDATE"

# In order: of two who add the same limits, one waits for the other.
ADD: Final = f"""
INSERT INTO limits (name) SELECT given.name FROM {given("name")} WHERE TRUE ORDER BY given.name
ON CONFLICT (name) DO NOTHING
"""

#: How much was started since a time, and when first.
STARTED: Final = f"""
SELECT given.name, sum(many), min(started_at)
FROM {given("name", "since_at")} JOIN limit_starts
    ON limit_starts.name = given.name AND limit_starts.started_at > given.since_at
GROUP BY given.name
"""

START: Final = f"""
INSERT INTO limit_starts (name, started_at, many)
SELECT given.name, :now, given.many FROM {given("name", "many")}
"""

FORGET_STARTS: Final = """
DELETE FROM limit_starts WHERE name = :name AND started_at <= :before
"""

# The condition of an index that leaves out finished tasks, and holds all that is read of others.
_TAKING: Final = """takes IS NOT NULL
    AND state <> 'succeeded' AND state <> 'failed' AND state <> 'cancelled'"""

#: The tasks that hold limits. Those that run are few.
HOLDING: Final = f"SELECT id, takes FROM tasks WHERE state = 'running' AND {_TAKING}"

# What unfinished tasks of a state take, once each: a jump in the index to the next.
_OF_STATE: Final = f"state = :state AND {_TAKING}"

TAKEN: Final = f"""
WITH RECURSIVE taken (takes) AS (
    SELECT (SELECT takes FROM tasks WHERE {_OF_STATE} ORDER BY takes LIMIT 1)
    UNION ALL
    SELECT (SELECT tasks.takes FROM tasks WHERE {_OF_STATE} AND tasks.takes > taken.takes
        ORDER BY tasks.takes LIMIT 1)
    FROM taken WHERE taken.takes IS NOT NULL
)
SELECT takes FROM taken WHERE takes IS NOT NULL
"""

_CLOSED: Final = ("closed_at", "closed_until", "closed_reason", "closed_by", "probe")

_SETS: Final = ", ".join(f"{name} = excluded.{name}" for name in _CLOSED)

CLOSE: Final = f"""
INSERT INTO limits (name, {", ".join(_CLOSED)})
VALUES (:name, :now, :until, :reason, :who, :probe)
ON CONFLICT (name) DO UPDATE SET {_SETS}
"""

# A worker closes it for longer, never for less: others, or a person, may have closed it before.
CLOSE_LONGER: Final = f"""{CLOSE}
WHERE limits.closed_at IS NULL OR limits.closed_until < excluded.closed_until
"""

# From now on a breaker counts anew.
OPEN: Final = f"""
UPDATE limits SET {", ".join(f"{name} = NULL" for name in _CLOSED)}, counted_from = :now
WHERE name = :name AND closed_at IS NOT NULL
"""

OPEN_OVER: Final = f"{OPEN.rstrip()} AND closed_until <= :now"

RESULT: Final = f"""
INSERT INTO limit_results (name, recorded_at, failures)
SELECT given.name, :now, given.many FROM {given("name", "many")}
"""

#: The last success, and the failures since, of those in a window; how a probe ended.
HEALTH: Final = """
SELECT (SELECT max(recorded_at) FROM limit_results
        WHERE name = :name AND recorded_at > :since AND failures = 0),
    (SELECT sum(failures) FROM limit_results
        WHERE name = :name AND recorded_at > :since AND recorded_at > COALESCE(
            (SELECT max(recorded_at) FROM limit_results
                WHERE name = :name AND recorded_at > :since AND failures = 0), 0)),
    (SELECT COALESCE(outcome, 'open') FROM runs WHERE uid = :probe)
"""

FORGET_RESULTS: Final = """
DELETE FROM limit_results WHERE name = :name AND recorded_at <= :before
"""

PROBE: Final = "UPDATE limits SET probe = :probe WHERE name = :name AND probe IS NOT NULL"

# Of the task of a lock.
TAKEN_BY: Final = """
SELECT tasks.takes FROM runs JOIN tasks ON tasks.id = runs.task_id
WHERE runs.task_id = :task_id AND runs.lock = :lock AND runs.outcome IS NULL
"""
