"""SQL of the daemon's ticks: no clock in it, no arithmetic between parameters.

A limit is cast, because SQLite plans a statement with a bare parameter there anew each time.
"""

from typing import Final

from dispatcher.store.engine import FORGETTABLE
from dispatcher.store.statements.given import NAMED_IS_OPEN, bounded, given
from dispatcher.store.statements.history import TAKEOVERS_ALLOWED
from dispatcher.store.statements.nodes import TAKES_WORK
from dispatcher.store.statements.readers import OPEN_RUNS, OPEN_RUNS_AMONG

#: Finished tasks for which others wait: see `dependencies`.
ENDED_PARENTS: Final = "awaited AND finished_at IS NOT NULL"

HAS_ENDED: Final = f"SELECT 1 FROM tasks WHERE {ENDED_PARENTS}"

DUE = """
SELECT id FROM tasks WHERE state = 'scheduled' AND run_at <= :now
ORDER BY run_at LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE SKIP LOCKED
"""

# Whether a concurrency key may be free, too: both are asked in each tick that looks.
NEXT_DUE_OR_KEYS = """
SELECT (SELECT run_at FROM tasks WHERE state = 'scheduled' ORDER BY run_at LIMIT 1),
    EXISTS (SELECT 1 FROM tasks WHERE key_due)
"""

NEXT_DUE = "SELECT run_at FROM tasks WHERE state = 'scheduled' ORDER BY run_at LIMIT 1"

OVERDUE = """
SELECT id, queue, queue_timeout_ms, total_timeout_ms, total_at, retried_at
FROM tasks WHERE fails_at <= :now
ORDER BY fails_at LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE SKIP LOCKED
"""

NEXT_FAILURE = """
SELECT fails_at FROM tasks WHERE fails_at IS NOT NULL ORDER BY fails_at LIMIT 1
"""

# Jumps from queue to queue: one step each, however many tasks are ready.
READY_QUEUES = f"""
WITH RECURSIVE behind (queue) AS (
    SELECT (SELECT queue FROM tasks WHERE state = 'ready' AND queue > :after
            ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT tasks.queue FROM tasks WHERE state = 'ready' AND tasks.queue > behind.queue
            ORDER BY tasks.queue LIMIT 1)
    FROM behind WHERE behind.queue IS NOT NULL
), first (queue) AS (
    SELECT (SELECT queue FROM tasks WHERE state = 'ready' AND queue <= :after
            ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT tasks.queue FROM tasks
            WHERE state = 'ready' AND tasks.queue > first.queue AND tasks.queue <= :after
            ORDER BY tasks.queue LIMIT 1)
    FROM first WHERE first.queue IS NOT NULL
)
SELECT queue FROM behind
WHERE queue IS NOT NULL AND queue NOT IN (SELECT queue FROM paused_queues) AND {TAKES_WORK}
UNION ALL
SELECT queue FROM first
WHERE queue IS NOT NULL AND queue NOT IN (SELECT queue FROM paused_queues) AND {TAKES_WORK}
LIMIT CAST(:limit AS BIGINT)
"""

# The start of a run begins its lease anew.
RECORD_STARTED = f"""
UPDATE runs SET pid = given.pid, started_at = given.started_at,
    lease_expires_at = :now + {bounded("runs.lease_ttl_ms")}
FROM {given("uid", "pid", "started_at")}
WHERE runs.uid = given.uid AND {NAMED_IS_OPEN}
"""

RECORD_LEADER_EXITS = f"""
UPDATE runs SET exit_code = given.exit_code, signal = given.signal
FROM {given("uid", "exit_code", "signal")}
WHERE runs.uid = given.uid AND {NAMED_IS_OPEN}
"""

# The first ending stays. Nobody waits for a row that another transaction has locked.
BEGIN_ENDINGS = f"""
UPDATE runs SET ending = given.ending, ending_reason = given.ending_reason
FROM {given("uid", "ending", "ending_reason")}
WHERE runs.uid = (SELECT runs.uid FROM runs
    WHERE runs.uid = given.uid AND {NAMED_IS_OPEN} AND ending IS NULL FOR UPDATE SKIP LOCKED)
"""

RENEW = f"""
UPDATE runs SET lease_expires_at = :now + {bounded("lease_ttl_ms")}
WHERE uid IN (SELECT uid FROM runs WHERE outcome IS NULL AND node = :node
    AND (liveness = 'process' OR ending IS NOT NULL OR declared IS NOT NULL
        OR exit_code IS NOT NULL OR signal IS NOT NULL)
    FOR UPDATE SKIP LOCKED)
{FORGETTABLE}"""

EXPIRED = f"""{OPEN_RUNS}node = :node AND runs.liveness = 'worker'
    AND (lease_expires_at <= :now OR lease_expires_at > :now + 2 * ({bounded("runs.lease_ttl_ms")}))
    AND ending IS NULL AND declared IS NULL AND exit_code IS NULL AND signal IS NULL
ORDER BY lease_expires_at LIMIT CAST(:limit AS BIGINT) FOR UPDATE OF runs SKIP LOCKED
"""

NEXT_EXPIRY = """
SELECT min(lease_expires_at) FROM runs
WHERE outcome IS NULL AND node = :node AND liveness = 'worker' AND ending IS NULL
"""

TAKE_RUNS = f"{OPEN_RUNS_AMONG}FOR NO KEY UPDATE SKIP LOCKED"

OPEN_RUNS_HERE = f"{OPEN_RUNS}node = :node ORDER BY runs.id"

ENDINGS = """
SELECT uid, ending, ending_reason FROM runs
WHERE outcome IS NULL AND ending IS NOT NULL AND node = :node ORDER BY id
"""

_CLOSED = (
    *("uid", "outcome", "run_reason", "error", "ended_at", "started_at", "pid", "exit_code"),
    *("signal", "output_tail", "output_truncated", "max_rss_bytes", "cpu_seconds", "left_alone"),
    "leftovers",
)

_KNOWN = ", ".join(
    f"{name} = COALESCE(given.{name}, runs.{name})"
    for name in ("started_at", "pid", "exit_code", "signal")
)

CLOSE = f"""
UPDATE runs SET outcome = given.outcome, reason = given.run_reason, error = given.error,
    ended_at = given.ended_at, {_KNOWN}, output_tail = given.output_tail,
    output_truncated = COALESCE(given.output_truncated, 0),
    max_rss_bytes = given.max_rss_bytes, cpu_seconds = given.cpu_seconds,
    left_alone = given.left_alone, leftovers = given.leftovers
FROM {given(*_CLOSED)}
WHERE runs.uid = given.uid AND {NAMED_IS_OPEN}
"""

_TAKEOVER = f":until + COALESCE({bounded('kill_grace_ms')}, 0)"

# No row is left out: a deadline that is not renewed may pass.
# An executor never moves a kill deadline back. So neither is a takeover, which comes after it.
CONFIRM = f"""
UPDATE runs SET takeover_at = CASE
    WHEN takeover_at IS NULL OR takeover_at > {_TAKEOVER} THEN takeover_at
    ELSE {_TAKEOVER} END
WHERE outcome IS NULL AND node = :node
"""

CONFIRMED = "SELECT uid FROM runs WHERE outcome IS NULL AND node = :node"

# Takeovers lock task and run: what a settlement is computed from, and the deadline that a node may
# have confirmed meanwhile, which then is compared again.

# Nobody watches a local claim's process: its ending or declaration is its end.
_IS_LOCAL: Final = "takeover_at IS NOT NULL AND substr(node, 1, 6) = 'local:'"

_IS_OVER: Final = "ending IS NOT NULL OR declared IS NOT NULL"

_IS_ABANDONED: Final = f"""{_IS_LOCAL}
    AND ({_IS_OVER}
        OR ((takeover_at <= :now OR takeover_at > :now + 2 * ({bounded("runs.lease_ttl_ms")}))
            AND {TAKEOVERS_ALLOWED}))"""

ABANDONED = f"""{OPEN_RUNS}{_IS_ABANDONED}
ORDER BY takeover_at LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE SKIP LOCKED
"""

LOCAL_OVER = f"""{OPEN_RUNS}{_IS_LOCAL} AND ({_IS_OVER})
ORDER BY takeover_at LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE SKIP LOCKED
"""

# Claims of other nodes. Where this node is `alone` nobody will confirm them.
_IS_STRANDED: Final = f"""node <> :node AND substr(node, 1, 6) <> 'local:'
    AND (CAST(:alone AS BOOLEAN) OR (takeover_at <= :now AND {TAKEOVERS_ALLOWED}))"""

# In no order, for which all of them would be read.
STRANDED = f"""{OPEN_RUNS}{_IS_STRANDED}
    AND runs.uid NOT IN (SELECT given.uid FROM {given("uid")})
LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE SKIP LOCKED
"""

STRANDED_AMONG = f"""{OPEN_RUNS}{_IS_STRANDED}
    AND runs.uid IN (SELECT given.uid FROM {given("uid")})
FOR NO KEY UPDATE SKIP LOCKED
"""

# With those that another transaction has locked.
TAKEABLE = f"""
SELECT uid FROM runs WHERE outcome IS NULL AND {_IS_ABANDONED}
UNION ALL SELECT uid FROM runs WHERE outcome IS NULL AND {_IS_STRANDED}
"""

_GIVEN_RUNS: Final = f"(SELECT given.uid FROM {given('uid')})"

TAKEABLE_AMONG = f"""
SELECT uid FROM runs WHERE {NAMED_IS_OPEN} AND uid IN {_GIVEN_RUNS}
    AND (({_IS_ABANDONED}) OR ({_IS_STRANDED}))
"""

ARE_TAKEABLE = f"""
SELECT EXISTS (SELECT 1 FROM runs
        WHERE outcome IS NULL AND {_IS_ABANDONED} AND uid NOT IN {_GIVEN_RUNS})
    OR EXISTS (SELECT 1 FROM runs
        WHERE outcome IS NULL AND {_IS_STRANDED} AND uid NOT IN {_GIVEN_RUNS})
"""

NEXT_TAKEOVER = """
SELECT min(takeover_at) FROM runs
WHERE outcome IS NULL AND takeover_at > :now AND node <> :node
"""

# Without the tasks that are ready, and those that need more than a slot: see `statements.lanes`.
# `but` has a space before and after each name; names contain none.
HAS_UNFINISHED = f"""
SELECT EXISTS (SELECT 1 FROM runs JOIN tasks ON tasks.id = runs.task_id
        WHERE runs.outcome IS NULL AND replace(:but, ' ' || queue || ' ', '') = :but)
    OR EXISTS ({HAS_ENDED})
    OR EXISTS (SELECT 1 FROM tasks WHERE state = 'scheduled' AND lane = ''
        AND replace(:but, ' ' || queue || ' ', '') = :but)
"""
