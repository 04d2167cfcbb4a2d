"""The store's statements. No clock in them, no arithmetic between parameters.

A limit is cast because SQLite plans a statement anew, each time, for a bare parameter there.
"""

from __future__ import annotations

SUBMIT = """
INSERT INTO tasks (state, reason, queue, priority, key, liveness, lease_ttl_ms, max_attempts,
                   created_at, run_at, cwd, labels, env, command)
VALUES (:state, :reason, :queue, :priority, :key, :liveness, :lease_ttl_ms, :max_attempts,
        :now, :run_at, :cwd, :labels, :env, :command)
ON CONFLICT (queue, key) WHERE key IS NOT NULL DO NOTHING
RETURNING id
"""

# Apart, because most tasks have none, and each parameter costs each submit.
SUBMIT_LIMITS = """
UPDATE tasks SET run_timeout_ms = :run_timeout_ms, stall_timeout_ms = :stall_timeout_ms,
    start_timeout_ms = :start_timeout_ms, queue_timeout_ms = :queue_timeout_ms,
    total_timeout_ms = :total_timeout_ms, kill_grace_ms = :kill_grace_ms,
    kill_signal = :kill_signal, kill_mode = :kill_mode, total_at = :total_at, fails_at = :fails_at
WHERE id = :task_id
"""

SUBMIT_NOTIFY = "UPDATE tasks SET notify = TRUE WHERE id = :task_id"

SUBMIT_PROFILE = "UPDATE tasks SET profile = :profile, rules = :rules WHERE id = :task_id"

SUBMIT_PAYLOAD = "INSERT INTO payloads (task_id, payload) VALUES (:task_id, :payload)"

TASK_WITH_KEY = """
SELECT tasks.id, tasks.command, payloads.payload
FROM tasks LEFT JOIN payloads ON payloads.task_id = tasks.id
WHERE tasks.queue = :queue AND tasks.key = :key
"""

BEGIN_BULK = """
INSERT INTO bulk_submits (uid, state, seen_at) VALUES (:uid, 'open', :now)
ON CONFLICT (uid) DO NOTHING
"""

SEE_BULK = "UPDATE bulk_submits SET seen_at = :now WHERE uid = :uid AND state <> 'dropped'"

STAGE = """
INSERT INTO bulk_parts (uid, part, many, tasks) VALUES (:uid, :part, :many, :tasks)
ON CONFLICT (uid, part) DO NOTHING
"""

ACCEPT = """
UPDATE bulk_submits SET state = 'accepted', seen_at = :now WHERE uid = :uid AND state <> 'dropped'
"""

BULK_STATE = "SELECT state FROM bulk_submits WHERE uid = :uid"

NEXT_PART = """
SELECT part, tasks FROM bulk_parts
WHERE uid = :uid AND tasks IS NOT NULL AND part > :after
    AND EXISTS (SELECT 1 FROM bulk_submits WHERE uid = :uid AND state = 'accepted')
ORDER BY part LIMIT 1
"""

ADMITTED = """
UPDATE bulk_parts SET tasks = NULL, submitted = :submitted WHERE uid = :uid AND part = :part
"""

SUBMITTED = """
SELECT submitted FROM bulk_parts WHERE uid = :uid AND part = :part AND submitted IS NOT NULL
"""

# By the index of what is left, which is empty but for minutes.
COMING = """
SELECT COALESCE(sum(many), 0) FROM bulk_parts WHERE tasks IS NOT NULL
    AND uid IN (SELECT uid FROM bulk_submits WHERE state = 'accepted')
"""

# Those of which something is left to become tasks.
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

# The one that was silent for longest and has something to be done for it: whether that is to make
# tasks of it, or to remove it.
SILENT = """
SELECT uid, is_left FROM (
    SELECT uid, state, seen_at, state = 'accepted' AND EXISTS (SELECT 1 FROM bulk_parts
        WHERE bulk_parts.uid = bulk_submits.uid AND tasks IS NOT NULL) AS is_left
    FROM bulk_submits WHERE seen_at < :silent) AS silent
WHERE is_left OR state = 'dropped' OR seen_at < :gone
ORDER BY seen_at LIMIT 1
"""

DUE = """
SELECT id FROM tasks WHERE state = 'scheduled' AND run_at <= :now
ORDER BY run_at LIMIT CAST(:limit AS BIGINT)
"""

# A ready task fails at the end of its waiting period, or of its total time if that comes first.
MAKE_READY = """
UPDATE tasks SET state = 'ready', reason = 'its time has come', fails_at = CASE
        WHEN queue_timeout_ms IS NULL OR total_at <= :now + queue_timeout_ms THEN total_at
        ELSE :now + queue_timeout_ms END
WHERE id = :id
"""

NEXT_DUE = "SELECT run_at FROM tasks WHERE state = 'scheduled' ORDER BY run_at LIMIT 1"

# Jumps from one queue to the next: as many steps as queues, however many rows they have.
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

# What a claim takes with it of a ready task, in the order of `claims.Ready`; whoever claims, of
# queues that are not paused.
_READY = """
SELECT id, queue, command, (SELECT payload FROM payloads WHERE task_id = id), cwd, env, liveness,
    lease_ttl_ms, attempts_used, fence, profile, rules, notify, kill_grace_ms, kill_mode,
    run_timeout_ms, stall_timeout_ms, start_timeout_ms, total_at, kill_signal
FROM tasks WHERE state = 'ready' AND queue NOT IN (SELECT queue FROM paused_queues)
"""

READY = f"""{_READY}AND queue = :queue
ORDER BY priority DESC, id LIMIT CAST(:limit AS BIGINT)
"""

READY_TASK = f"""{_READY}AND id = :task_id
"""

LAST_OUTCOME = """
SELECT outcome FROM runs WHERE task_id = :task_id ORDER BY fence DESC LIMIT 1
"""

# Without those that surely never had a process, and those whose leftovers may go on.
EARLIER_OUTPUTS = """
SELECT output_path FROM runs
WHERE task_id = :task_id AND node = :owner AND left_alone IS NULL
    AND (pid IS NOT NULL OR (outcome <> 'released' AND outcome <> 'spawn_failed'))
ORDER BY fence DESC
"""

CLAIM = """
UPDATE tasks SET state = 'running', reason = 'claimed', fence = :fence, lock = :lock,
    owner = :owner, run_uid = :uid, lease_ttl_ms = :lease_ttl_ms,
    lease_expires_at = :lease_expires_at, takeover_at = :takeover_at,
    deadline_at = :deadline_at, fails_at = NULL
WHERE id = :task_id
"""

OPEN = """
INSERT INTO runs (task_id, uid, attempt, fence, lock, node, claimed_at, output_path, kill_grace_ms)
VALUES (:task_id, :uid, :attempt, :fence, :lock, :owner, :now, :output_path, :kill_grace_ms)
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

# What `values.open_run_from` reads, in its order.
_OPEN = """
SELECT tasks.id, runs.id, runs.uid, runs.fence, runs.attempt, tasks.queue, tasks.liveness,
    tasks.lease_ttl_ms, tasks.ending, tasks.ending_reason, runs.pid, runs.exit_code, runs.signal,
    runs.declared, runs.declared_reason, runs.declared_delay_ms, runs.declared_retry,
    tasks.attempts_used, tasks.max_attempts, tasks.deferrals, tasks.orphans,
    tasks.last_heartbeat_at, tasks.progressed_at, tasks.run_timeout_ms, tasks.stall_timeout_ms,
    tasks.start_timeout_ms, tasks.total_at, tasks.kill_signal, runs.kill_grace_ms, runs.node,
    tasks.rules, runs.output_path, tasks.intent, tasks.intent_reason, tasks.lease_expires_at,
    tasks.deadline_at
"""

OPEN_RUN = f"""{_OPEN}FROM runs JOIN tasks ON tasks.id = runs.task_id
WHERE runs.uid = :uid AND runs.outcome IS NULL
"""

OPEN_RUNS = f"""{_OPEN}FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.state = 'running' AND tasks.owner = :node
ORDER BY runs.id
"""

ENDINGS = f"""{_OPEN}FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.ending IS NOT NULL AND tasks.owner = :node
ORDER BY runs.id
"""

# The one renewal: whoever knows the whole current lock moves the expiry and stamps life, together.
# Only a report that differs from the one before is progress: what repeats itself may be stuck.
# A local claim has no node whose clock `takeover_at` could be: it is the expiry there. It alone
# has a deadline, which no beat moves.
HEARTBEAT = """
UPDATE tasks SET last_heartbeat_at = :now,
    lease_expires_at = CASE WHEN deadline_at < :now + lease_ttl_ms THEN deadline_at
                       ELSE :now + lease_ttl_ms END,
    takeover_at = CASE WHEN substr(owner, 1, 6) <> 'local:' THEN takeover_at
                  WHEN deadline_at < :now + lease_ttl_ms THEN deadline_at
                  ELSE :now + lease_ttl_ms END,
    progress = COALESCE(:progress, progress), note = COALESCE(:note, note),
    progressed_at = CASE WHEN COALESCE(:progress, progress) IS DISTINCT FROM progress
        OR COALESCE(:note, note) IS DISTINCT FROM note THEN :now ELSE progressed_at END
WHERE id = :task_id AND lock = :lock AND ending IS NULL
    AND (deadline_at IS NULL OR deadline_at > :now)
RETURNING lease_expires_at
"""

# A note alone proves no life: it moves no expiry and stamps no liveness.
NOTE = """
UPDATE tasks SET note = :note,
    progressed_at = CASE WHEN :note IS DISTINCT FROM note THEN :now ELSE progressed_at END
WHERE id = :task_id AND lock = :lock AND ending IS NULL
    AND (deadline_at IS NULL OR deadline_at > :now)
"""

LOCK_OF = "SELECT task_id, lock FROM runs WHERE uid = :uid"

# What is known of a lock that was refused: the task now, and the run whose lock it was.
PRESENTED = """
SELECT tasks.state, tasks.run_uid, runs.uid, coalesce(
    (SELECT attempt FROM runs WHERE task_id = tasks.id ORDER BY fence DESC LIMIT 1), 0)
FROM tasks
LEFT JOIN runs ON runs.task_id = tasks.id AND runs.lock = :lock
WHERE tasks.id = :task_id
"""

DECLARE = """
UPDATE runs SET declared = :declared, declared_reason = :reason, declared_delay_ms = :delay_ms,
    declared_retry = :retry, result = :result
WHERE uid = (SELECT run_uid FROM tasks WHERE id = :task_id AND lock = :lock AND ending IS NULL
             AND (deadline_at IS NULL OR deadline_at > :now))
    AND declared IS NULL
"""

DECLARED = """
SELECT declared, declared_reason, declared_delay_ms, declared_retry, result
FROM runs WHERE task_id = :task_id AND lock = :lock AND declared IS NOT NULL
"""

RENEW = """
UPDATE tasks SET lease_expires_at = :now + lease_ttl_ms
WHERE state = 'running' AND owner = :node
    AND (liveness = 'process' OR ending IS NOT NULL OR EXISTS (
        SELECT 1 FROM runs WHERE runs.uid = tasks.run_uid
        AND (declared IS NOT NULL OR exit_code IS NOT NULL OR signal IS NOT NULL)))
"""

RENEW_SHORT = """
UPDATE tasks SET lease_expires_at = :now + lease_ttl_ms
WHERE state = 'running' AND owner = :node AND lease_ttl_ms < 2 * CAST(:gap_ms AS BIGINT)
"""

EXPIRED = f"""{_OPEN}FROM tasks JOIN runs ON runs.uid = tasks.run_uid
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

CONFIRM = """
UPDATE tasks SET takeover_at = :until
    + COALESCE((SELECT kill_grace_ms FROM runs WHERE uid = tasks.run_uid), 0)
WHERE state = 'running' AND owner = :node
"""

# Claims of other nodes. Where no node can be but this one (`alone`) nobody will confirm them.
STRANDED = f"""{_OPEN}FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.state = 'running' AND tasks.owner <> :node AND substr(tasks.owner, 1, 6) <> 'local:'
    AND (CAST(:alone AS BOOLEAN) OR tasks.takeover_at <= :now)
ORDER BY runs.id
"""

# Nobody waits for the end of a local claim's process: its ending or declaration is its end.
ABANDONED = f"""{_OPEN}FROM tasks JOIN runs ON runs.uid = tasks.run_uid
WHERE tasks.takeover_at IS NOT NULL AND substr(tasks.owner, 1, 6) = 'local:'
    AND (tasks.takeover_at <= :now OR tasks.takeover_at > :now + 2 * tasks.lease_ttl_ms
        OR tasks.ending IS NOT NULL OR runs.declared IS NOT NULL)
ORDER BY tasks.takeover_at LIMIT CAST(:limit AS BIGINT)
"""

NEXT_TAKEOVER = """
SELECT min(takeover_at) FROM tasks WHERE takeover_at > :now AND owner <> :node
"""

# By the index of what is declared and open: asked at each poll.
DECLARED_UIDS = """
SELECT uid FROM runs WHERE declared IS NOT NULL AND outcome IS NULL AND node = :node
"""

BEGIN_ENDING = """
UPDATE tasks SET ending = :ending, ending_reason = :reason, reason = :reason, lock = :lock
WHERE id = (SELECT task_id FROM runs WHERE uid = :uid) AND run_uid = :uid AND ending IS NULL
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

# An operator's retry of a run that was still ending.
BEGIN_TOTAL_ANEW = """
UPDATE tasks SET total_at = :now + total_timeout_ms
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

NEXT_FAILURE = """
SELECT fails_at FROM tasks WHERE fails_at IS NOT NULL ORDER BY fails_at LIMIT 1
"""

OVERDUE = """
SELECT id, queue, queue_timeout_ms, total_timeout_ms, total_at FROM tasks WHERE fails_at <= :now
ORDER BY fails_at LIMIT CAST(:limit AS BIGINT)
"""

GIVE_UP = """
UPDATE tasks SET state = 'failed', reason = :reason, finished_at = :now, fails_at = NULL
WHERE id = :id
"""

# `but` has a space before and after each name, and no name has one.
HAS_UNFINISHED = """
SELECT EXISTS (SELECT 1 FROM tasks
        WHERE state = 'running' AND replace(:but, ' ' || queue || ' ', '') = :but)
    OR EXISTS (SELECT 1 FROM tasks
        WHERE state = 'ready' AND replace(:but, ' ' || queue || ' ', '') = :but)
    OR EXISTS (SELECT 1 FROM tasks
        WHERE state = 'scheduled' AND replace(:but, ' ' || queue || ' ', '') = :but)
"""

RECORD_NODE = """
INSERT INTO nodes (id, boot_id, pid_namespace, hostname, slots, seen_at, seen_interval_ms)
VALUES (:id, :boot_id, :pid_namespace, :hostname, :slots, :seen_at, :seen_interval_ms)
ON CONFLICT (id) DO UPDATE SET boot_id = excluded.boot_id,
    pid_namespace = excluded.pid_namespace, hostname = excluded.hostname, slots = excluded.slots,
    seen_at = excluded.seen_at, seen_interval_ms = excluded.seen_interval_ms
"""

STATE = "SELECT state, run_uid FROM tasks WHERE id = :id"

INTEND = """
UPDATE tasks SET intent = :intent, intent_reason = :reason
WHERE id = (SELECT task_id FROM runs WHERE uid = :uid) AND run_uid = :uid
"""

CANCEL = """
UPDATE tasks SET state = 'cancelled', reason = :reason, finished_at = :now, fails_at = NULL
WHERE id = :id
"""

RETRY = """
UPDATE tasks SET state = 'ready', reason = 'retried by operator', run_at = :now,
    finished_at = NULL, attempts_used = 0, deferrals = 0, orphans = 0,
    total_at = :now + total_timeout_ms, fails_at = CASE
        WHEN queue_timeout_ms IS NULL OR total_timeout_ms <= queue_timeout_ms
        THEN :now + total_timeout_ms ELSE :now + queue_timeout_ms END
WHERE id = :id
"""

HOLD = """
UPDATE tasks SET state = 'held', reason = :reason, fails_at = total_at WHERE id = :id
"""

RELEASE = """
UPDATE tasks SET state = 'ready', reason = 'released by operator', run_at = :now, fails_at = CASE
        WHEN queue_timeout_ms IS NULL OR total_at <= :now + queue_timeout_ms THEN total_at
        ELSE :now + queue_timeout_ms END
WHERE id = :id AND attempts_used < max_attempts
"""

PAUSE = """
INSERT INTO paused_queues (queue, reason, paused_at) VALUES (:queue, :reason, :now)
ON CONFLICT (queue) DO NOTHING
"""

RESUME = "DELETE FROM paused_queues WHERE queue = :queue"

PAUSED_QUEUES = "SELECT queue, reason, paused_at FROM paused_queues ORDER BY queue"

# Cast, as a bare parameter may be what a partial index is of: SQLite would plan anew each time.
PRUNABLE = """
SELECT count(*) FROM tasks WHERE state = CAST(:state AS TEXT) AND finished_at < :before
"""

# With the size of its payload in rows, as what is long takes long.
OLD = """
SELECT id, COALESCE((SELECT octet_length(payload) FROM payloads WHERE task_id = id), 0) / 65536
FROM tasks WHERE state = CAST(:state AS TEXT) AND finished_at < :before
ORDER BY finished_at, id LIMIT CAST(:limit AS BIGINT)
"""

OLD_RUNS = """
SELECT id, output_path FROM runs WHERE task_id = :task_id LIMIT CAST(:limit AS BIGINT)
"""

RUN_IS_KNOWN = "SELECT 1 FROM runs WHERE uid = :uid"

DELETE = "DELETE FROM tasks WHERE id = :id"

DELETE_RUN = "DELETE FROM runs WHERE id = :id"

# The columns stand in the order of `model.Task`.
TASK = """
SELECT id, state, reason, queue, priority, command,
    (SELECT payload FROM payloads WHERE task_id = id), cwd, env, key, labels, liveness,
    lease_ttl_ms, attempts_used, max_attempts, deferrals, orphans, fence, ending,
    created_at, run_at, finished_at,
    run_timeout_ms, stall_timeout_ms, start_timeout_ms, queue_timeout_ms, total_timeout_ms,
    kill_grace_ms, kill_signal, kill_mode, notify, profile, fails_at, intent, intent_reason
FROM tasks WHERE id = :id
"""

# A state that is not wanted is NULL, which equals nothing. The casts tell a typed database what a
# parameter that may be NULL is. What stands between two arguments of a command is never in one.
_TASKS = """
SELECT id, state, reason, queue, priority, command,
    (SELECT payload FROM payloads WHERE task_id = id), cwd, env, key, labels, liveness,
    lease_ttl_ms, attempts_used, max_attempts, deferrals, orphans, fence, ending,
    created_at, run_at, finished_at,
    run_timeout_ms, stall_timeout_ms, start_timeout_ms, queue_timeout_ms, total_timeout_ms,
    kill_grace_ms, kill_signal, kill_mode, notify, profile, fails_at, intent, intent_reason
FROM tasks
WHERE state IN (:waiting, :scheduled, :ready, :running, :held, :succeeded, :failed, :cancelled)
    AND queue = COALESCE(CAST(:queue AS TEXT), queue)
    AND id > :after_id AND id < :before_id
    AND created_at >= :since AND created_at < :until
    AND (CAST(:profile AS TEXT) IS NULL OR profile = :profile)
    AND (CAST(:text AS TEXT) IS NULL OR replace(replace(command, '","', ' '), :text, '')
        <> replace(command, '","', ' '))
    AND (CAST(:label AS TEXT) IS NULL OR EXISTS (
        SELECT 1 FROM {each_label} AS label WHERE label.key = :label AND label.value = :labelled))
"""

TASKS = f"{_TASKS}ORDER BY id DESC LIMIT CAST(:limit AS BIGINT)"

TASKS_OLDEST_FIRST = f"{_TASKS}ORDER BY id LIMIT CAST(:limit AS BIGINT)"

FIRST_ID = "SELECT id FROM tasks ORDER BY id LIMIT 1"

LAST_ID = "SELECT id FROM tasks ORDER BY id DESC LIMIT 1"

SUBMITTED_FROM = "SELECT id, created_at FROM tasks WHERE id >= :id ORDER BY id LIMIT 1"

# The columns stand in the order of `model.Run`. Lease and beats of the open run are its task's.
RUNS = """
SELECT runs.id, runs.uid, runs.task_id, runs.attempt, runs.fence, runs.outcome, runs.reason,
    runs.exit_code, runs.signal, runs.pid, runs.node,
    runs.claimed_at, runs.started_at, runs.ended_at,
    COALESCE(tasks.last_heartbeat_at, runs.last_heartbeat_at),
    COALESCE(tasks.lease_expires_at, runs.lease_expires_at),
    COALESCE(tasks.progress, runs.progress), COALESCE(tasks.note, runs.note),
    runs.result, runs.error, runs.output_tail, runs.max_rss_bytes, runs.cpu_seconds,
    runs.output_path, runs.left_alone, runs.leftovers, runs.output_truncated
FROM runs LEFT JOIN tasks ON tasks.id = runs.task_id AND tasks.run_uid = runs.uid
WHERE runs.task_id = :task_id
ORDER BY runs.fence
"""

# Each part by an index that has all that it reads; of those that run there are few.
COUNTS = """
SELECT queue, state, count(*) FROM tasks WHERE state <> 'ready' AND state <> 'running'
GROUP BY queue, state
UNION ALL SELECT queue, 'ready', count(*) FROM tasks WHERE state = 'ready' GROUP BY queue
UNION ALL SELECT queue, 'running', count(*) FROM tasks WHERE state = 'running' GROUP BY queue
ORDER BY queue, state
"""

# Whatever makes a task ready leaves in `run_at` since when.
READY_SINCE = "SELECT queue, min(run_at) FROM tasks WHERE state = 'ready' GROUP BY queue"

OUTCOMES = "SELECT outcome, count(*) FROM runs WHERE outcome IS NOT NULL GROUP BY outcome"

# In the order of `model.Leases`.
LEASES = """
SELECT count(*), min(lease_expires_at), min(lease_expires_at - lease_ttl_ms), min(last_heartbeat_at)
FROM tasks WHERE state = 'running'
"""

# In the order of `model.Node`.
NODES = """
SELECT id, boot_id, pid_namespace, hostname, slots, seen_at, seen_interval_ms
FROM nodes ORDER BY hostname, id
"""
