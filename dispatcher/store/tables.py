"""The tables of a new database, for every engine; `migrations` brings older ones here.

`{row_id}` is an integer primary key without reuse, `{counting}` what keeps `counts`.
"""

from typing import Final

# Checks use CASE and OR, not IN, for which SQLite builds a table at each row that it checks.
SCHEMA: Final = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL,
    pid_namespace TEXT NOT NULL,
    hostname TEXT NOT NULL,
    slots BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    seen_interval_ms BIGINT NOT NULL,
    session TEXT NOT NULL DEFAULT '',
    release TEXT NOT NULL DEFAULT '',
    labels TEXT NOT NULL DEFAULT '{{}}',
    draining TEXT,
    timeline BIGINT NOT NULL DEFAULT 0,
    listen TEXT,
    unconfirmed_ms BIGINT,
    obeys TEXT
);

-- In a boot (`reckoning`) store time is the boot clock + `boot_ms`, the host's `ahead_ms` more.
CREATE TABLE clock_settings (
    id {row_id},
    since BIGINT NOT NULL,
    reckoning TEXT NOT NULL,
    boot_ms BIGINT NOT NULL,
    ahead_ms BIGINT NOT NULL,
    step_ms BIGINT NOT NULL,

    CHECK (reckoning <> '')
);

-- Of submitters, equal ones once.
CREATE TABLE environments (
    id {row_id},
    checksum BIGINT NOT NULL,
    variables TEXT NOT NULL
);
CREATE INDEX environments_checksum ON environments (checksum);

-- A running task's lease is in its open run.
CREATE TABLE tasks (
    id {row_id},
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority BIGINT NOT NULL,
    key TEXT,
    concurrency_key TEXT,
    key_due BOOLEAN NOT NULL DEFAULT FALSE,
    run_uid TEXT,
    liveness TEXT NOT NULL,
    lease_ttl_ms BIGINT NOT NULL,
    attempts_used BIGINT NOT NULL DEFAULT 0,
    max_attempts BIGINT NOT NULL,
    deferrals BIGINT NOT NULL DEFAULT 0,
    orphans BIGINT NOT NULL DEFAULT 0,
    fence BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    finished_at BIGINT,
    retried_at BIGINT,
    total_at BIGINT,
    fails_at BIGINT,
    run_timeout_ms BIGINT,
    stall_timeout_ms BIGINT,
    start_timeout_ms BIGINT,
    queue_timeout_ms BIGINT,
    total_timeout_ms BIGINT,
    kill_grace_ms BIGINT,
    kill_signal BIGINT,
    kill_mode TEXT,
    backoff_min_ms BIGINT,
    backoff_max_ms BIGINT,
    cooldown_ms BIGINT,
    max_deferrals BIGINT,
    max_orphans BIGINT,
    notify BOOLEAN NOT NULL DEFAULT FALSE,
    profile TEXT,
    rules TEXT,
    cwd TEXT,
    umask BIGINT,
    environment_id BIGINT REFERENCES environments (id),
    labels TEXT NOT NULL,
    env TEXT NOT NULL,
    command TEXT NOT NULL,
    requires TEXT,
    takes TEXT,
    blockers BIGINT,
    awaited BOOLEAN NOT NULL DEFAULT FALSE,
    on_parent_failure TEXT,
    hold_kind TEXT,
    origin TEXT,
    lane TEXT NOT NULL DEFAULT '',
    rank BIGINT NOT NULL DEFAULT 0,
    ageing_ms BIGINT,

    CHECK (CASE state
           WHEN 'ready' THEN finished_at IS NULL
           WHEN 'running' THEN finished_at IS NULL
           WHEN 'succeeded' THEN finished_at IS NOT NULL
           WHEN 'failed' THEN finished_at IS NOT NULL
           WHEN 'cancelled' THEN finished_at IS NOT NULL
           WHEN 'scheduled' THEN finished_at IS NULL
           WHEN 'waiting' THEN finished_at IS NULL
           WHEN 'held' THEN finished_at IS NULL
           ELSE FALSE END),
    CHECK ((run_uid IS NOT NULL) = (state = 'running')),
    CHECK (CASE
           WHEN state = 'running' OR finished_at IS NOT NULL THEN fails_at IS NULL
           WHEN state = 'ready' AND queue_timeout_ms IS NOT NULL THEN fails_at IS NOT NULL
           ELSE fails_at IS NOT DISTINCT FROM total_at END),
    CHECK ((total_at IS NULL) = (total_timeout_ms IS NULL)),
    CHECK (run_timeout_ms > 0),
    CHECK (stall_timeout_ms > 0),
    CHECK (start_timeout_ms > 0),
    CHECK (queue_timeout_ms > 0),
    CHECK (total_timeout_ms > 0),
    CHECK (kill_grace_ms >= 0),
    CHECK (kill_signal > 0),
    CHECK (kill_mode = 'tree' OR kill_mode = 'leader'),
    CHECK (backoff_min_ms >= 0),
    CHECK (backoff_max_ms >= 0),
    CHECK (backoff_max_ms >= backoff_min_ms),
    CHECK (cooldown_ms >= 0),
    CHECK (max_deferrals >= 0),
    CHECK (max_orphans >= 0),
    CHECK (umask BETWEEN 0 AND 511),
    CHECK (queue <> ''),
    CHECK (liveness = 'process' OR liveness = 'worker'),
    CHECK (lease_ttl_ms > 0),
    CHECK (attempts_used >= 0),
    CHECK (max_attempts >= 1),
    CHECK (deferrals >= 0),
    CHECK (orphans >= 0),
    CHECK (fence >= 0)
);
CREATE INDEX tasks_ready ON tasks (queue, lane, rank, id, run_at) WHERE state = 'ready';
CREATE INDEX tasks_due ON tasks (run_at) WHERE state = 'scheduled';
CREATE INDEX tasks_finished ON tasks (state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX tasks_resting ON tasks (queue, state) WHERE state <> 'ready' AND state <> 'running';
CREATE INDEX tasks_failing ON tasks (fails_at) WHERE fails_at IS NOT NULL;
CREATE INDEX tasks_environment ON tasks (environment_id) WHERE environment_id IS NOT NULL;
CREATE INDEX tasks_awaited ON tasks (id) WHERE awaited AND finished_at IS NOT NULL;
CREATE INDEX tasks_taking ON tasks (state, takes) WHERE takes IS NOT NULL
    AND state <> 'succeeded' AND state <> 'failed' AND state <> 'cancelled';
CREATE UNIQUE INDEX tasks_key_holders ON tasks (queue, concurrency_key)
    WHERE concurrency_key IS NOT NULL AND lane <> '~';
CREATE INDEX tasks_behind ON tasks (queue, concurrency_key, rank, id)
    WHERE concurrency_key IS NOT NULL AND state = 'ready' AND lane = '~';
CREATE INDEX tasks_key_due ON tasks (id) WHERE key_due;
CREATE INDEX tasks_origin ON tasks (origin, id) WHERE origin IS NOT NULL AND finished_at IS NULL;
CREATE UNIQUE INDEX tasks_key ON tasks (queue, key) WHERE key IS NOT NULL;

-- Apart, because a task's row is rewritten whole at each move.
CREATE TABLE payloads (
    task_id BIGINT PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    payload TEXT NOT NULL
);

-- A task waits for others, its parents. Theirs may be deleted before it, once it has finished.
CREATE TABLE dependencies (
    task_id BIGINT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    parent_id BIGINT NOT NULL,
    any_outcome BOOLEAN NOT NULL,
    state TEXT NOT NULL,

    PRIMARY KEY (task_id, parent_id),
    CHECK (state = 'open' OR state = 'met' OR state = 'broken')
);
CREATE INDEX dependencies_of_parent ON dependencies (parent_id, task_id);
CREATE INDEX dependencies_open ON dependencies (parent_id, task_id) WHERE state = 'open';

-- What a run leaves for the next one of its task, with the answer to its question.
CREATE TABLE handovers (
    task_id BIGINT PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    checkpoint TEXT,
    checkpoint_at BIGINT,
    question TEXT,
    kind TEXT,
    asked_at BIGINT,
    answer TEXT,
    answered_at BIGINT,
    answered_by TEXT,

    CHECK (kind = 'needs_input' OR kind = 'capability' OR kind = 'approval')
);

CREATE INDEX handovers_asking ON handovers (task_id)
    WHERE question IS NOT NULL AND answer IS NULL;

-- A run is open until it has an outcome. An open one holds the claim: its lock and its lease.
CREATE TABLE runs (
    id {row_id},
    task_id BIGINT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    uid TEXT NOT NULL UNIQUE,
    attempt BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    lock TEXT NOT NULL,
    node TEXT NOT NULL,
    liveness TEXT NOT NULL,
    lease_ttl_ms BIGINT NOT NULL,
    lease_expires_at BIGINT NOT NULL,
    takeover_at BIGINT,
    deadline_at BIGINT,
    kill_grace_ms BIGINT,
    claimed_at BIGINT NOT NULL,
    started_at BIGINT,
    last_heartbeat_at BIGINT,
    progressed_at BIGINT,
    progress DOUBLE PRECISION,
    note TEXT,
    ending TEXT,
    ending_reason TEXT,
    intent TEXT,
    intent_reason TEXT,
    declared TEXT,
    declared_reason TEXT,
    declared_delay_ms BIGINT,
    declared_retry BOOLEAN,
    ended_at BIGINT,
    outcome TEXT,
    reason TEXT,
    exit_code BIGINT,
    signal BIGINT,
    pid BIGINT,
    result TEXT,
    error TEXT,
    max_rss_bytes BIGINT,
    cpu_seconds DOUBLE PRECISION,
    output_path TEXT NOT NULL,
    output_tail TEXT,
    output_truncated BIGINT NOT NULL DEFAULT 0,
    left_alone TEXT,
    leftovers TEXT,

    UNIQUE (task_id, fence),
    CHECK (outcome = 'succeeded' OR outcome = 'failed' OR outcome = 'lost'
           OR outcome = 'timed_out' OR outcome = 'stalled' OR outcome = 'oom_killed'
           OR outcome = 'spawn_failed' OR outcome = 'deferred' OR outcome = 'held'
           OR outcome = 'cancelled' OR outcome = 'released' OR outcome = 'orphaned'),
    CHECK (CASE WHEN outcome IS NULL THEN ended_at IS NULL AND reason IS NULL
           ELSE ended_at IS NOT NULL AND reason IS NOT NULL END),
    CHECK (ending = 'succeeded' OR ending = 'failed' OR ending = 'lost'
           OR ending = 'timed_out' OR ending = 'stalled' OR ending = 'oom_killed'
           OR ending = 'spawn_failed' OR ending = 'deferred' OR ending = 'held'
           OR ending = 'cancelled' OR ending = 'released' OR ending = 'orphaned'),
    CHECK ((ending IS NULL) = (ending_reason IS NULL)),
    CHECK (intent = 'cancel' OR intent = 'hold' OR intent = 'release' OR intent = 'retry'),
    CHECK ((intent IS NULL) = (intent_reason IS NULL)),
    CHECK (declared = 'succeed' OR declared = 'fail' OR declared = 'defer' OR declared = 'hold'),
    CHECK (liveness = 'process' OR liveness = 'worker'),
    CHECK (lease_ttl_ms > 0),
    CHECK (lease_expires_at <= deadline_at),
    CHECK (kill_grace_ms >= 0),
    CHECK (progress BETWEEN 0 AND 1),
    CHECK (attempt >= 1),
    CHECK (fence >= 1)
);
CREATE UNIQUE INDEX runs_open ON runs (task_id) WHERE outcome IS NULL;
CREATE INDEX runs_here ON runs (node, task_id) WHERE outcome IS NULL;
CREATE INDEX runs_declared ON runs (node) WHERE declared IS NOT NULL AND outcome IS NULL;
CREATE INDEX runs_ending ON runs (node) WHERE ending IS NOT NULL AND outcome IS NULL;
CREATE INDEX runs_takeover ON runs (takeover_at) WHERE takeover_at IS NOT NULL AND outcome IS NULL;

CREATE TABLE paused_queues (
    queue TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    paused_at BIGINT NOT NULL
);

-- Claims that share a limit lock its row: `queue:NAME` for a queue's limit on all nodes. It is
-- closed from `closed_at` until `closed_until` (NULL: until somebody opens it).
CREATE TABLE limits (
    name TEXT PRIMARY KEY,
    closed_at BIGINT,
    closed_until BIGINT,
    closed_reason TEXT,
    closed_by TEXT,
    probe TEXT,
    counted_from BIGINT
);

-- What a breaker counts: how many runs of a queue failed, or that some succeeded (0).
CREATE TABLE limit_results (
    name TEXT NOT NULL,
    recorded_at BIGINT NOT NULL,
    failures BIGINT NOT NULL
);
CREATE INDEX limit_results_name ON limit_results (name, recorded_at, failures);

-- The starts within the window of a limit's rate, and how much of it each took.
CREATE TABLE limit_starts (
    name TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    many BIGINT NOT NULL
);
CREATE INDEX limit_starts_name ON limit_starts (name, started_at, many);

-- Until when the times of each schedule are settled. These are dates.
CREATE TABLE schedules (
    name TEXT PRIMARY KEY,
    definition TEXT NOT NULL,
    settled_at BIGINT NOT NULL,
    fired_at BIGINT,
    task_id BIGINT,
    note TEXT,
    noted_at BIGINT,
    paused TEXT
);

-- Moves of tasks' states but for claims, and operators' actions: see `statements.events`.
CREATE TABLE events (
    id {row_id},
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    task_id BIGINT REFERENCES tasks (id) ON DELETE CASCADE,
    fence BIGINT,
    subject TEXT,
    before TEXT,
    after TEXT,
    who TEXT NOT NULL,
    reason TEXT
);
CREATE INDEX events_task ON events (task_id);

-- Bulk submits, whose parts become tasks: see `submits`.
CREATE TABLE bulk_submits (
    uid TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    who TEXT,

    CHECK (state = 'open' OR state = 'accepted' OR state = 'dropped')
);
CREATE TABLE bulk_parts (
    uid TEXT NOT NULL REFERENCES bulk_submits (uid) ON DELETE CASCADE,
    part BIGINT NOT NULL,
    many BIGINT NOT NULL,
    tasks TEXT,
    environments TEXT,
    submitted TEXT,

    PRIMARY KEY (uid, part),
    CHECK ((tasks IS NULL) = (submitted IS NOT NULL))
);
CREATE INDEX bulk_parts_left ON bulk_parts (uid, part) WHERE tasks IS NOT NULL;
{counting}"""
