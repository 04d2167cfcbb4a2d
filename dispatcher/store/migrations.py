"""How the schema came to be: numbered steps, which upgrade an older database.

A new database gets `tables.SCHEMA` at once. Steps up to `ON_SERVERS` are for SQLite alone; later
ones are for servers too.
"""

from collections.abc import Iterator
from typing import Final

# Checks use CASE and OR, not IN, for which SQLite builds a table at each row that it checks.
_FIRST = """
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
    seen_interval_ms BIGINT NOT NULL
);

CREATE TABLE tasks (
    id {row_id},
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority BIGINT NOT NULL,
    key TEXT,
    liveness TEXT NOT NULL,
    lease_ttl_ms BIGINT NOT NULL,
    attempt BIGINT NOT NULL DEFAULT 0,
    max_attempts BIGINT NOT NULL,
    deferrals BIGINT NOT NULL DEFAULT 0,
    orphans BIGINT NOT NULL DEFAULT 0,
    fence BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    finished_at BIGINT,
    lock TEXT,
    lease_expires_at BIGINT,
    owner TEXT,
    run_uid TEXT,
    takeover_at BIGINT,
    ending TEXT,
    ending_reason TEXT,
    last_heartbeat_at BIGINT,
    progress DOUBLE PRECISION,
    note TEXT,
    progressed_at BIGINT,
    run_timeout_ms BIGINT,
    stall_timeout_ms BIGINT,
    start_timeout_ms BIGINT,
    queue_timeout_ms BIGINT,
    total_timeout_ms BIGINT,
    total_at BIGINT,
    fails_at BIGINT,
    kill_grace_ms BIGINT,
    kill_signal BIGINT,
    notify BOOLEAN NOT NULL DEFAULT FALSE,
    profile TEXT,
    rules TEXT,
    cwd TEXT,
    labels TEXT NOT NULL,
    env TEXT NOT NULL,
    command TEXT NOT NULL,

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
    CHECK (CASE WHEN state = 'running'
           THEN lock IS NOT NULL AND lease_expires_at IS NOT NULL AND owner IS NOT NULL
                AND run_uid IS NOT NULL AND (ending IS NULL) = (ending_reason IS NULL)
           ELSE lock IS NULL AND lease_expires_at IS NULL AND owner IS NULL
                AND run_uid IS NULL AND ending IS NULL AND ending_reason IS NULL
                AND takeover_at IS NULL AND last_heartbeat_at IS NULL
                AND progress IS NULL AND note IS NULL AND progressed_at IS NULL END),
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
    CHECK (ending = 'succeeded' OR ending = 'failed' OR ending = 'lost'
           OR ending = 'timed_out' OR ending = 'stalled' OR ending = 'oom_killed'
           OR ending = 'spawn_failed' OR ending = 'deferred' OR ending = 'held'
           OR ending = 'cancelled' OR ending = 'released' OR ending = 'orphaned'),
    CHECK (queue <> ''),
    CHECK (liveness = 'process' OR liveness = 'worker'),
    CHECK (lease_ttl_ms > 0),
    CHECK (attempt >= 0),
    CHECK (max_attempts >= 1),
    CHECK (deferrals >= 0),
    CHECK (orphans >= 0),
    CHECK (fence >= 0),
    CHECK (progress BETWEEN 0 AND 1)
);

CREATE INDEX tasks_ready ON tasks (queue, priority DESC, id) WHERE state = 'ready';
CREATE INDEX tasks_due ON tasks (run_at) WHERE state = 'scheduled';
CREATE INDEX tasks_running ON tasks (owner) WHERE state = 'running';
CREATE INDEX tasks_endings ON tasks (owner) WHERE ending IS NOT NULL;
CREATE INDEX tasks_takeover ON tasks (takeover_at) WHERE takeover_at IS NOT NULL;
CREATE INDEX tasks_finished ON tasks (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX tasks_failing ON tasks (fails_at) WHERE fails_at IS NOT NULL;
CREATE UNIQUE INDEX tasks_key ON tasks (queue, key) WHERE key IS NOT NULL;

CREATE TABLE paused_queues (
    queue TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    paused_at BIGINT NOT NULL
);

-- Apart, because a row is rewritten whole at each claim, beat and settle.
CREATE TABLE payloads (
    task_id BIGINT PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    payload TEXT NOT NULL
);

CREATE TABLE runs (
    id {row_id},
    task_id BIGINT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    uid TEXT NOT NULL UNIQUE,
    attempt BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    lock TEXT NOT NULL,
    node TEXT NOT NULL,
    claimed_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    outcome TEXT,
    reason TEXT,
    exit_code BIGINT,
    signal BIGINT,
    pid BIGINT,
    last_heartbeat_at BIGINT,
    lease_expires_at BIGINT,
    progress DOUBLE PRECISION,
    note TEXT,
    declared TEXT,
    declared_reason TEXT,
    declared_delay_ms BIGINT,
    declared_retry BOOLEAN,
    result TEXT,
    error TEXT,
    max_rss_bytes BIGINT,
    cpu_seconds DOUBLE PRECISION,
    output_path TEXT NOT NULL,
    output_tail TEXT,
    left_alone TEXT,

    UNIQUE (task_id, fence),
    CHECK (outcome = 'succeeded' OR outcome = 'failed' OR outcome = 'lost'
           OR outcome = 'timed_out' OR outcome = 'stalled' OR outcome = 'oom_killed'
           OR outcome = 'spawn_failed' OR outcome = 'deferred' OR outcome = 'held'
           OR outcome = 'cancelled' OR outcome = 'released' OR outcome = 'orphaned'),
    CHECK (CASE WHEN outcome IS NULL THEN ended_at IS NULL AND reason IS NULL
           ELSE ended_at IS NOT NULL AND reason IS NOT NULL END),
    CHECK (declared = 'succeed' OR declared = 'fail' OR declared = 'defer' OR declared = 'hold'),
    CHECK (attempt >= 1),
    CHECK (fence >= 1)
);

CREATE INDEX runs_declared ON runs (node) WHERE declared IS NOT NULL AND outcome IS NULL;
"""

# Runs that were open before get the built-in default if their task has none.
_KILL_GRACE = """
ALTER TABLE runs ADD COLUMN kill_grace_ms BIGINT CHECK (kill_grace_ms >= 0);
UPDATE runs SET kill_grace_ms = COALESCE(
    (SELECT tasks.kill_grace_ms FROM tasks WHERE tasks.id = runs.task_id), 10000)
WHERE outcome IS NULL;
"""

# An operator's intent, and the deadline of a local claim.
_INTENT = """
ALTER TABLE tasks ADD COLUMN intent TEXT
    CHECK (intent = 'cancel' OR intent = 'hold' OR intent = 'release' OR intent = 'retry')
    CHECK (intent IS NULL OR state = 'running');
ALTER TABLE tasks ADD COLUMN intent_reason TEXT
    CHECK ((intent_reason IS NULL) = (intent IS NULL));
ALTER TABLE tasks ADD COLUMN deadline_at BIGINT
    CHECK (deadline_at IS NULL OR (state = 'running' AND lease_expires_at <= deadline_at));
"""

# In a boot (`reckoning`) store time is the boot clock + `boot_ms`; the host's is `ahead_ms` ahead.
_CLOCK = """
CREATE TABLE clock_settings (
    id {row_id},
    since BIGINT NOT NULL,
    reckoning TEXT NOT NULL,
    boot_ms BIGINT NOT NULL,
    ahead_ms BIGINT NOT NULL,
    step_ms BIGINT NOT NULL,

    CHECK (reckoning <> '')
);
"""

# Which of a run's processes get the kill signal; NULL: all.
_KILL_MODE = """
ALTER TABLE tasks ADD COLUMN kill_mode TEXT CHECK (kill_mode = 'tree' OR kill_mode = 'leader');
"""

# `counts`, `ready_since`, `outcomes` and `prune` by state read indexes alone.
_COUNTED = """
DROP INDEX tasks_ready;
CREATE INDEX tasks_ready ON tasks (queue, priority DESC, id, run_at) WHERE state = 'ready';
DROP INDEX tasks_finished;
CREATE INDEX tasks_finished ON tasks (state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX tasks_resting ON tasks (queue, state) WHERE state <> 'ready' AND state <> 'running';
CREATE INDEX runs_closed ON runs (outcome) WHERE outcome IS NOT NULL;
"""

# Bulk submits whose parts become tasks: see `submits`.
_BULK = """
CREATE TABLE bulk_submits (
    uid TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    seen_at BIGINT NOT NULL,

    CHECK (state = 'open' OR state = 'accepted' OR state = 'dropped')
);
CREATE TABLE bulk_parts (
    uid TEXT NOT NULL REFERENCES bulk_submits (uid) ON DELETE CASCADE,
    part BIGINT NOT NULL,
    many BIGINT NOT NULL,
    tasks TEXT,
    submitted TEXT,

    PRIMARY KEY (uid, part),
    CHECK ((tasks IS NULL) = (submitted IS NOT NULL))
);
CREATE INDEX bulk_parts_left ON bulk_parts (uid, part) WHERE tasks IS NOT NULL;
"""

# Processes that a leader left behind, and bytes that a run removed from its output.
_REMAINS = """
ALTER TABLE runs ADD COLUMN leftovers TEXT;
ALTER TABLE runs ADD COLUMN output_truncated BIGINT NOT NULL DEFAULT 0;
"""

_ATTEMPTS_USED = "ALTER TABLE tasks RENAME COLUMN attempt TO attempts_used;"

# The environments of submitters, equal ones once, and those of a bulk submit's part. NULL in a
# task: a clean environment, the configured umask. The index finds environments without a task.
_ENVIRONMENTS = """
CREATE TABLE environments (
    id {row_id},
    checksum BIGINT NOT NULL,
    variables TEXT NOT NULL
);
CREATE INDEX environments_checksum ON environments (checksum);
ALTER TABLE tasks ADD COLUMN environment_id BIGINT REFERENCES environments (id);
CREATE INDEX tasks_environment ON tasks (environment_id) WHERE environment_id IS NOT NULL;
ALTER TABLE tasks ADD COLUMN umask BIGINT CHECK (umask BETWEEN 0 AND 511);
ALTER TABLE bulk_parts ADD COLUMN environments TEXT;
"""

# From where the total time-out of a task counts; NULL: from its submit. Of tasks that were retried
# before, those with a total time-out keep theirs.
_RETRIED = """
ALTER TABLE tasks ADD COLUMN retried_at BIGINT;
UPDATE tasks SET retried_at = total_at - total_timeout_ms
WHERE total_at - total_timeout_ms <> created_at;
"""

# The lease of a running task moves from its row to its open run.
_TABLES_OF_LEASES = """
CREATE TABLE tasks (
    id {row_id},
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority BIGINT NOT NULL,
    key TEXT,
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

    CHECK (CASE state
           WHEN 'ready' THEN finished_at IS NULL
           WHEN 'running' THEN finished_at IS NULL
           WHEN 'succeeded' THEN finished_at IS NOT NULL
           WHEN 'failed' THEN finished_at IS NOT NULL
           WHEN 'cancelled' THEN finished_at IS NOT NULL
           WHEN 'scheduled' THEN finished_at IS NULL
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
CREATE INDEX tasks_ready ON tasks (queue, priority DESC, id, run_at) WHERE state = 'ready';
CREATE INDEX tasks_due ON tasks (run_at) WHERE state = 'scheduled';
CREATE INDEX tasks_finished ON tasks (state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX tasks_resting ON tasks (queue, state) WHERE state <> 'ready' AND state <> 'running';
CREATE INDEX tasks_failing ON tasks (fails_at) WHERE fails_at IS NOT NULL;
CREATE INDEX tasks_environment ON tasks (environment_id) WHERE environment_id IS NOT NULL;
CREATE UNIQUE INDEX tasks_key ON tasks (queue, key) WHERE key IS NOT NULL;
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
CREATE INDEX runs_closed ON runs (outcome) WHERE outcome IS NOT NULL;
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
"""
_OF_THE_RUN = (
    *("liveness", "lease_ttl_ms", "takeover_at", "deadline_at", "progressed_at", "ending"),
    *("ending_reason", "intent", "intent_reason"),
)
_LIVE = ("lease_expires_at", "last_heartbeat_at", "progress", "note")
_TASK_COLUMNS = (
    *("id", "state", "reason", "queue", "priority", "key", "run_uid", "liveness", "lease_ttl_ms"),
    *("attempts_used", "max_attempts", "deferrals", "orphans", "fence", "created_at", "run_at"),
    *("finished_at", "retried_at", "total_at", "fails_at", "run_timeout_ms", "stall_timeout_ms"),
    *("start_timeout_ms", "queue_timeout_ms", "total_timeout_ms", "kill_grace_ms", "kill_signal"),
    *("kill_mode", "notify", "profile", "rules", "cwd", "umask", "environment_id", "labels", "env"),
    "command",
)
_RUN_COLUMNS = (
    *("id", "task_id", "uid", "attempt", "fence", "lock", "node", "kill_grace_ms", "claimed_at"),
    *("started_at", "declared", "declared_reason", "declared_delay_ms", "declared_retry"),
    *("ended_at", "outcome", "reason", "exit_code", "signal", "pid", "result", "error"),
    *("max_rss_bytes", "cpu_seconds", "output_path", "output_tail", "output_truncated"),
    *("left_alone", "leftovers"),
)
_CLOSED_BY_HAND = {
    "outcome": "'lost'",
    "reason": "'damaged by hand: open, but not its task''s run'",
    "ended_at": "run.claimed_at",
}
_PART_COLUMNS = ("uid", "part", "many", "tasks", "environments", "submitted")


def _leases() -> Iterator[str]:
    """Make the tables anew, as SQLite can remove neither a column with a check nor a check."""
    # Closed runs have no lease, and those of a damaged database perhaps no task. Nothing checked a
    # run's own progress, nor that only its task's present run is open.
    progress = "COALESCE(task.progress, run.progress)"
    lease = {
        **{name: f"task.{name}" for name in _OF_THE_RUN},
        **{name: f"COALESCE(task.{name}, run.{name})" for name in _LIVE},
        "progress": f"CASE WHEN {progress} BETWEEN 0 AND 1 THEN {progress} END",
        "liveness": "COALESCE(task.liveness, 'process')",
        "lease_ttl_ms": "COALESCE(task.lease_ttl_ms, 1)",
        "lease_expires_at": "COALESCE(task.lease_expires_at, run.lease_expires_at, run.claimed_at)",
        **{name: _closed_unless_held(name, value) for name, value in _CLOSED_BY_HAND.items()},
    }
    runs = {**{name: f"run.{name}" for name in _RUN_COLUMNS}, **lease}
    statements = [text.strip() for text in _TABLES_OF_LEASES.split(";") if text.strip()]
    yield "PRAGMA legacy_alter_table = ON"
    for table in ("tasks", "runs", "bulk_parts"):
        yield f"ALTER TABLE {table} RENAME TO old_{table}"
    yield from (text for text in statements if text.startswith("CREATE TABLE "))
    tasks = dict(zip(_TASK_COLUMNS, _TASK_COLUMNS, strict=True))
    # A state of the first schema that nothing ever wrote.
    tasks["state"] = "CASE state WHEN 'waiting' THEN 'held' ELSE state END"
    yield _copy("tasks", tasks, "old_tasks")
    yield _copy(
        "runs", runs, "old_runs AS run LEFT JOIN old_tasks AS task ON task.run_uid = run.uid"
    )
    yield _copy(
        "bulk_parts", dict(zip(_PART_COLUMNS, _PART_COLUMNS, strict=True)), "old_bulk_parts"
    )
    yield "DELETE FROM sqlite_sequence WHERE name = 'tasks' OR name = 'runs'"
    yield "UPDATE sqlite_sequence SET name = substr(name, 5) WHERE substr(name, 1, 4) = 'old_'"
    for table in ("tasks", "runs", "bulk_parts"):
        yield f"DROP TABLE old_{table}"
    yield from (text for text in statements if not text.startswith("CREATE TABLE "))
    yield "PRAGMA legacy_alter_table = OFF"


def _closed_unless_held(name: str, value: str) -> str:
    return (
        f"CASE WHEN run.outcome IS NULL AND task.run_uid IS NULL THEN {value} ELSE run.{name} END"
    )


def _copy(table: str, values: dict[str, str], source: str) -> str:
    columns, expressions = ", ".join(values), ", ".join(values.values())
    return f"INSERT INTO {table} ({columns}) SELECT {expressions} FROM {source}"  # noqa: S608


# Many nodes on one store: who owns a node's row, what the node has, and whether it takes work; the
# labels that a task requires (NULL: any node); the rows that claims under one limit lock.
_NODES = """
ALTER TABLE nodes ADD COLUMN session TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN release TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN labels TEXT NOT NULL DEFAULT '{{}}';
ALTER TABLE nodes ADD COLUMN draining TEXT;
ALTER TABLE nodes ADD COLUMN timeline BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN listen TEXT;
ALTER TABLE nodes ADD COLUMN unconfirmed_ms BIGINT;
ALTER TABLE tasks ADD COLUMN requires TEXT;
CREATE INDEX tasks_requiring ON tasks (queue, requires, run_at)
    WHERE state = 'ready' AND requires IS NOT NULL;
CREATE TABLE limits (
    name TEXT PRIMARY KEY
);
"""

# What happened, and by whom: moves of tasks, and operators' actions. `who` of a bulk submit: who
# began it.
_EVENTS = """
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
ALTER TABLE bulk_submits ADD COLUMN who TEXT;
"""

# Kept counts. The index was only for counting.
_COUNTS = """
{counting}
INSERT INTO counts (queue, state, many)
SELECT queue, state, count(*) FROM tasks WHERE state <> 'running' GROUP BY queue, state
UNION ALL SELECT '', outcome, count(*) FROM runs WHERE outcome IS NOT NULL GROUP BY outcome;
DROP INDEX runs_closed;
"""


# Tasks that wait for others. SQLite has no statement for a change of a check; this is the way that
# its manual gives for one that changes no row (sqlite.org/lang_altertable.html, 7).
_WAITING_ON_SQLITE = """
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'WHEN ''held'' THEN finished_at IS NULL',
    'WHEN ''waiting'' THEN finished_at IS NULL
           WHEN ''held'' THEN finished_at IS NULL')
    WHERE type = 'table' AND name = 'tasks';
PRAGMA writable_schema = RESET;
"""
_WAITING_ON_A_SERVER = """
ALTER TABLE tasks DROP CONSTRAINT tasks_check;
ALTER TABLE tasks ADD CHECK (CASE state
           WHEN 'ready' THEN finished_at IS NULL
           WHEN 'running' THEN finished_at IS NULL
           WHEN 'succeeded' THEN finished_at IS NOT NULL
           WHEN 'failed' THEN finished_at IS NOT NULL
           WHEN 'cancelled' THEN finished_at IS NOT NULL
           WHEN 'scheduled' THEN finished_at IS NULL
           WHEN 'waiting' THEN finished_at IS NULL
           WHEN 'held' THEN finished_at IS NULL
           ELSE FALSE END);
"""
_DEPENDENCIES = """
ALTER TABLE tasks ADD COLUMN blockers BIGINT;
ALTER TABLE tasks ADD COLUMN awaited BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE tasks ADD COLUMN on_parent_failure TEXT;
ALTER TABLE tasks ADD COLUMN hold_kind TEXT;
CREATE INDEX tasks_awaited ON tasks (id) WHERE awaited AND finished_at IS NOT NULL;
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
"""


_HANDOVERS = """
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
"""

# What submitted a task, if nobody did: a hook.
_ORIGIN = "ALTER TABLE tasks ADD COLUMN origin TEXT"

_ASKING = """
CREATE INDEX handovers_asking ON handovers (task_id)
    WHERE question IS NOT NULL AND answer IS NULL;
"""

# In which order, and with what, ready tasks are claimed. A lane has the form of `lanes.lane`, but
# not the order of its labels, so that the older tasks may have another one that needs the same. A
# task that has succeeded is never ready again. A rank is that of `lanes.rank` without ageing; a
# number that no task may have would be too large for it.
_LANES = """
ALTER TABLE tasks ADD COLUMN lane TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN rank BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN ageing_ms BIGINT;
DROP INDEX tasks_ready;
DROP INDEX tasks_requiring;
UPDATE tasks SET lane = COALESCE('{{"requires":' || requires || '}}', ''),
    rank = created_at / 1000 - priority * 2147483648
WHERE state <> 'succeeded' AND priority BETWEEN -2147483648 AND 2147483647
    AND created_at BETWEEN 0 AND 9007199254740991;
CREATE INDEX tasks_ready ON tasks (queue, lane, rank, id, run_at) WHERE state = 'ready';
"""

# Named limits: what a task takes, and whether one is closed.
_LIMITS = """
ALTER TABLE tasks ADD COLUMN takes TEXT;
CREATE INDEX tasks_taking ON tasks (state, takes) WHERE takes IS NOT NULL
    AND state <> 'succeeded' AND state <> 'failed' AND state <> 'cancelled';
ALTER TABLE limits ADD COLUMN closed_at BIGINT;
ALTER TABLE limits ADD COLUMN closed_until BIGINT;
ALTER TABLE limits ADD COLUMN closed_reason TEXT;
ALTER TABLE limits ADD COLUMN closed_by TEXT;
CREATE TABLE limit_starts (
    name TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    many BIGINT NOT NULL
);
CREATE INDEX limit_starts_name ON limit_starts (name, started_at, many);
"""

# Concurrency keys. `key_due`: whether it is to be found out who gets the task's key.
_CONCURRENCY_KEYS = """
ALTER TABLE tasks ADD COLUMN concurrency_key TEXT;
ALTER TABLE tasks ADD COLUMN key_due BOOLEAN NOT NULL DEFAULT FALSE;
CREATE UNIQUE INDEX tasks_key_holders ON tasks (queue, concurrency_key)
    WHERE concurrency_key IS NOT NULL AND lane <> '~';
CREATE INDEX tasks_behind ON tasks (queue, concurrency_key, rank, id)
    WHERE concurrency_key IS NOT NULL AND state = 'ready' AND lane = '~';
CREATE INDEX tasks_key_due ON tasks (id) WHERE key_due;
"""

# What the files of nodes say of limits.
_OBEYS = """
ALTER TABLE nodes ADD COLUMN obeys TEXT;
"""

# Breakers of queues: see `breakers`.
_BREAKERS = """
ALTER TABLE limits ADD COLUMN probe TEXT;
ALTER TABLE limits ADD COLUMN counted_from BIGINT;
CREATE TABLE limit_results (
    name TEXT NOT NULL,
    recorded_at BIGINT NOT NULL,
    failures BIGINT NOT NULL
);
CREATE INDEX limit_results_name ON limit_results (name, recorded_at, failures);
"""

_SCHEDULES = """
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
CREATE INDEX tasks_origin ON tasks (origin, id) WHERE origin IS NOT NULL AND finished_at IS NULL;
"""

# Which table `meta` is: see `shared`.
_TABLE = """
INSERT INTO meta (key, value) VALUES ('table', CAST(CAST(to_regclass('meta') AS oid) AS TEXT))
ON CONFLICT (key) DO UPDATE SET value = excluded.value;
"""

#: One text, or one for SQLite and one for servers.
Step = str | tuple[str, str]

#: One step for each version of the schema. Append; never edit a released one.
MIGRATIONS: tuple[Step, ...] = (
    _FIRST,
    _KILL_GRACE,
    _INTENT,
    _CLOCK,
    _KILL_MODE,
    _COUNTED,
    _BULK,
    _REMAINS,
    _ATTEMPTS_USED,
    _ENVIRONMENTS,
    _RETRIED,
    ";\n".join(_leases()),
    _NODES,
    _EVENTS,
    _COUNTS,
    (_WAITING_ON_SQLITE + _DEPENDENCIES, _WAITING_ON_A_SERVER + _DEPENDENCIES),
    _HANDOVERS,
    _ORIGIN,
    _ASKING,
    _LANES,
    _LIMITS,
    _CONCURRENCY_KEYS,
    _OBEYS,
    _BREAKERS,
    _SCHEDULES,
    ("", _TABLE),
)

#: The oldest version that a server's store may have: the first with which one was released.
ON_SERVERS: Final = 13

#: Versions whose step lets dispatchers of the version before work on, as daemons of other hosts do
#: during an upgrade. Such a step adds tables, triggers, or columns that they need not know; it
#: changes nothing that they read or write, and holds no lock for long: no index on a table that may
#: be large. Triggers count what older dispatchers do; to count a million tasks takes a second.
KEEPING: frozenset[int] = frozenset({14, 15, 18, 23, 24, 26})


def usable_since(version: int) -> int:
    """Return the oldest version whose dispatchers can work with a schema of this version."""
    while version in KEEPING:
        version -= 1
    return version
