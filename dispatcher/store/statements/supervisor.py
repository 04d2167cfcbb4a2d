"""SQL of the daemon's ticks: no clock in it, no arithmetic between parameters.

A limit is cast, because SQLite plans a statement with a bare parameter there anew each time.
"""

from dispatcher.model import Node
from dispatcher.store.rows import columns, names
from dispatcher.store.statements.readers import OPEN_RUN_COLUMNS

DUE = """
SELECT id FROM tasks WHERE state = 'scheduled' AND run_at <= :now
ORDER BY run_at LIMIT CAST(:limit AS BIGINT)
"""

# A ready task fails when its queue or its total time-out is over, whichever comes first.
MAKE_READY = """
UPDATE tasks SET state = 'ready', reason = 'its time has come', fails_at = CASE
        WHEN queue_timeout_ms IS NULL OR total_at <= :now + queue_timeout_ms THEN total_at
        ELSE :now + queue_timeout_ms END
WHERE id = :id
"""

NEXT_DUE = "SELECT run_at FROM tasks WHERE state = 'scheduled' ORDER BY run_at LIMIT 1"

OVERDUE = """
SELECT id, queue, queue_timeout_ms, total_timeout_ms, total_at, retried_at
FROM tasks WHERE fails_at <= :now
ORDER BY fails_at LIMIT CAST(:limit AS BIGINT)
"""

GIVE_UP = """
UPDATE tasks SET state = 'failed', reason = :reason, finished_at = :now, fails_at = NULL
WHERE id = :id
"""

NEXT_FAILURE = """
SELECT fails_at FROM tasks WHERE fails_at IS NOT NULL ORDER BY fails_at LIMIT 1
"""

# Jumps from queue to queue: one step each, however many tasks are ready.
READY_QUEUES = """
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
WHERE queue IS NOT NULL AND queue NOT IN (SELECT queue FROM paused_queues)
UNION ALL
SELECT queue FROM first
WHERE queue IS NOT NULL AND queue NOT IN (SELECT queue FROM paused_queues)
LIMIT CAST(:limit AS BIGINT)
"""

RECORD_STARTED = """
UPDATE runs SET pid = :pid, started_at = :started_at WHERE uid = :uid AND outcome IS NULL
"""

BEGIN_LEASE = """
UPDATE tasks SET lease_expires_at = :now + lease_ttl_ms
WHERE id = (SELECT task_id FROM runs WHERE uid = :uid) AND run_uid = :uid
"""

RECORD_LEADER_EXIT = """
UPDATE runs SET exit_code = :exit_code, signal = :signal WHERE uid = :uid AND outcome IS NULL
"""

RENEW = """
UPDATE tasks SET lease_expires_at = :now + lease_ttl_ms
WHERE state = 'running' AND owner = :node
    AND (liveness = 'process' OR ending IS NOT NULL OR EXISTS (
        SELECT 1 FROM runs WHERE runs.uid = tasks.run_uid
        AND (declared IS NOT NULL OR exit_code IS NOT NULL OR signal IS NOT NULL)))
"""

EXPIRED = f"""
SELECT {OPEN_RUN_COLUMNS} FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.state = 'running' AND tasks.owner = :node AND tasks.liveness = 'worker'
    AND (tasks.lease_expires_at <= :now
        OR tasks.lease_expires_at > :now + 2 * tasks.lease_ttl_ms)
    AND tasks.ending IS NULL AND runs.declared IS NULL
    AND runs.exit_code IS NULL AND runs.signal IS NULL
ORDER BY tasks.lease_expires_at LIMIT :limit
"""

NEXT_EXPIRY = """
SELECT min(lease_expires_at) FROM tasks
WHERE state = 'running' AND owner = :node AND liveness = 'worker' AND ending IS NULL
"""

OPEN_RUNS = f"""
SELECT {OPEN_RUN_COLUMNS} FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.state = 'running' AND tasks.owner = :node
ORDER BY runs.id
"""

ENDINGS = f"""
SELECT {OPEN_RUN_COLUMNS} FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.ending IS NOT NULL AND tasks.owner = :node
ORDER BY runs.id
"""

CLOSE = """
UPDATE runs SET outcome = :outcome, reason = :run_reason, error = :error, ended_at = :ended_at,
    started_at = COALESCE(:started_at, started_at), pid = COALESCE(:pid, pid),
    exit_code = COALESCE(:exit_code, exit_code), signal = COALESCE(:signal, signal),
    output_tail = COALESCE(:output_tail, output_tail),
    max_rss_bytes = COALESCE(:max_rss_bytes, max_rss_bytes),
    cpu_seconds = COALESCE(:cpu_seconds, cpu_seconds),
    (lease_expires_at, last_heartbeat_at, progress, note) =
        (SELECT lease_expires_at, last_heartbeat_at, progress, note
         FROM tasks WHERE tasks.id = runs.task_id AND tasks.run_uid = runs.uid)
WHERE uid = :uid AND outcome IS NULL
"""

REMAINS = """
UPDATE runs SET left_alone = :left_alone, leftovers = :leftovers,
    output_truncated = :output_truncated
WHERE uid = :uid
"""

# After an operator's retry of a run that was still ending.
BEGIN_TOTAL_ANEW = """
UPDATE tasks SET retried_at = :now, total_at = :now + total_timeout_ms
WHERE id = (SELECT task_id FROM runs WHERE uid = :uid) AND run_uid = :uid
"""

MOVE_ON = """
UPDATE tasks SET state = :state, reason = :reason,
    run_at = CASE WHEN :state = 'ready' THEN :now ELSE COALESCE(:run_at, run_at) END,
    finished_at = :finished_at,
    attempts_used = :attempts_used, deferrals = :deferrals, orphans = :orphans,
    lock = NULL, lease_expires_at = NULL, owner = NULL, run_uid = NULL, takeover_at = NULL,
    ending = NULL, ending_reason = NULL, intent = NULL, intent_reason = NULL, deadline_at = NULL,
    last_heartbeat_at = NULL, progress = NULL, note = NULL, progressed_at = NULL, fails_at = CASE
        WHEN :state = 'scheduled' OR :state = 'held' THEN total_at
        WHEN :state <> 'ready' THEN NULL
        WHEN queue_timeout_ms IS NULL OR total_at <= :now + queue_timeout_ms THEN total_at
        ELSE :now + queue_timeout_ms END
WHERE id = (SELECT task_id FROM runs WHERE uid = :uid) AND run_uid = :uid
"""

CONFIRM = """
UPDATE tasks SET takeover_at = :until
    + COALESCE((SELECT kill_grace_ms FROM runs WHERE uid = tasks.run_uid), 0)
WHERE state = 'running' AND owner = :node
"""

# Nobody watches a local claim's process: its ending or declaration is its end.
ABANDONED = f"""
SELECT {OPEN_RUN_COLUMNS} FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.takeover_at IS NOT NULL AND substr(tasks.owner, 1, 6) = 'local:'
    AND (tasks.takeover_at <= :now OR tasks.takeover_at > :now + 2 * tasks.lease_ttl_ms
        OR tasks.ending IS NOT NULL OR runs.declared IS NOT NULL)
ORDER BY tasks.takeover_at LIMIT CAST(:limit AS BIGINT)
"""

# Claims of other nodes. Where this node is `alone` nobody will confirm them.
STRANDED = f"""
SELECT {OPEN_RUN_COLUMNS} FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.state = 'running' AND tasks.owner <> :node AND substr(tasks.owner, 1, 6) <> 'local:'
    AND (CAST(:alone AS BOOLEAN) OR tasks.takeover_at <= :now)
ORDER BY runs.id
"""

NEXT_TAKEOVER = """
SELECT min(takeover_at) FROM tasks WHERE takeover_at > :now AND owner <> :node
"""

# `but` has a space before and after each name; names contain none.
HAS_UNFINISHED = """
SELECT EXISTS (SELECT 1 FROM tasks
        WHERE state = 'running' AND replace(:but, ' ' || queue || ' ', '') = :but)
    OR EXISTS (SELECT 1 FROM tasks
        WHERE state = 'ready' AND replace(:but, ' ' || queue || ' ', '') = :but)
    OR EXISTS (SELECT 1 FROM tasks
        WHERE state = 'scheduled' AND replace(:but, ' ' || queue || ' ', '') = :but)
"""

RECORD_NODE = f"""
INSERT INTO nodes ({columns(Node)})
VALUES ({", ".join(f":{name}" for name in names(Node))})
ON CONFLICT (id) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in names(Node)[1:])}
"""
