"""States, moves, outcomes, and the values of tasks and runs. `_ms` in a name means milliseconds."""

import enum
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field

from dispatcher.dependency import ParentFailure
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid


class TaskState(enum.StrEnum):
    WAITING = "waiting"
    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = TaskState

#: Every legal move. Tests compare it with the store's verbs, the schema and docs/design.md 4.1.
MOVES: Mapping[TaskState, frozenset[TaskState]] = MappingProxyType(
    {
        _S.WAITING: frozenset({_S.SCHEDULED, _S.READY, _S.HELD, _S.FAILED, _S.CANCELLED}),
        _S.SCHEDULED: frozenset({_S.READY, _S.HELD, _S.FAILED, _S.CANCELLED}),
        _S.READY: frozenset({_S.RUNNING, _S.SCHEDULED, _S.HELD, _S.FAILED, _S.CANCELLED}),
        _S.RUNNING: frozenset(
            {_S.READY, _S.SCHEDULED, _S.HELD, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}
        ),
        _S.HELD: frozenset({_S.WAITING, _S.READY, _S.FAILED, _S.CANCELLED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset({_S.WAITING, _S.READY}),
        _S.CANCELLED: frozenset({_S.WAITING, _S.READY}),
    }
)

#: States that only an operator's `retry` leaves.
FINISHED = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})


class Outcome(enum.StrEnum):
    """How a run ended: a closed list, explained in docs/design.md 5.1."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    TIMED_OUT = "timed_out"
    STALLED = "stalled"
    OOM_KILLED = "oom_killed"
    SPAWN_FAILED = "spawn_failed"
    DEFERRED = "deferred"
    HELD = "held"
    CANCELLED = "cancelled"
    RELEASED = "released"
    ORPHANED = "orphaned"


class Liveness(enum.StrEnum):
    """Who renews a task's lease: the daemon while the process lives, or the worker's beats."""

    PROCESS = "process"
    WORKER = "worker"


class Declared(enum.StrEnum):
    """A worker's declaration of its outcome, effective once its process is gone."""

    SUCCEED = "succeed"
    FAIL = "fail"
    DEFER = "defer"
    HOLD = "hold"


class Intent(enum.StrEnum):
    """An operator's decision about a running task: where it goes once its run is settled."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"


INTENDED: Mapping[Intent, TaskState] = {
    Intent.CANCEL: TaskState.CANCELLED,
    Intent.HOLD: TaskState.HELD,
    Intent.RELEASE: TaskState.READY,
    Intent.RETRY: TaskState.READY,
}


#: The labels of a node that has none.
NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Submitted(Struct, frozen=True):
    """A submitted task; `created` is false if its key was in use."""

    task_id: int
    created: bool
    differs: tuple[str, ...] = ()
    """`command` or `payload`, or both, if they differ from the task with the key."""


class Task(Struct, frozen=True, kw_only=True):
    """A row of `tasks`, without the lock."""

    id: int
    state: TaskState
    reason: str
    queue: str
    priority: int
    command: tuple[str, ...]
    payload: str | None
    cwd: str | None
    env: Mapping[str, str]
    key: str | None
    labels: Mapping[str, str]
    liveness: Liveness
    lease_ttl_ms: int
    attempts_used: int
    """By runs whose outcome charges an attempt; at most `max_attempts`."""
    max_attempts: int
    deferrals: int
    orphans: int
    fence: int
    ending: Outcome | None
    created_at: StoreTime
    run_at: StoreTime
    finished_at: StoreTime | None
    run_timeout_ms: int | None = None
    stall_timeout_ms: int | None = None
    start_timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    total_timeout_ms: int | None = None
    kill_signal: int | None = None
    kill_mode: KillMode | None = None
    kill_grace_ms: int | None = None
    """As in `NewTask`, so with the retry policy that follows."""
    backoff_min_ms: int | None = None
    backoff_max_ms: int | None = None
    cooldown_ms: int | None = None
    max_deferrals: int | None = None
    max_orphans: int | None = None
    notify: bool = False
    environment_id: int | None = None
    """The id of its submitter's environment; None: its runs get a clean one."""
    umask: int | None = None
    """None: as configured at the start of a run."""
    profile: str | None = None
    fails_at: StoreTime | None = None
    """When it fails unless it runs (queue time-out) or is finished (total time-out)."""
    retried_at: StoreTime | None = None
    """When an operator last retried it: its total time-out counts from then, not its submit."""
    intent: Intent | None = None
    """Where an operator moves it once its run is settled."""
    intent_reason: str | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node must have to run it."""
    ageing_ms: int | None = None
    """The waiting that one point of its priority is worth; None: any."""
    takes: Mapping[str, int] = field(default_factory=dict)
    """As in `NewTask`."""
    concurrency_key: str | None = None
    """As in `NewTask`."""
    key_holder: int | None = None
    """The id of the task that has its concurrency key, while it is ready and waits for that."""
    blockers: int | None = None
    """How many of its parents have not finished; None: it has no parents."""
    on_parent_failure: ParentFailure | None = None
    """None: hold."""
    origin: str | None = None
    """As in `NewTask`."""


class Run(Struct, frozen=True, kw_only=True):
    """A row of `runs`, without the lock."""

    id: int
    uid: RunUid
    task_id: int
    attempt: int
    """Its number among the attempts, from 1."""
    fence: int
    outcome: Outcome | None
    """None while the run is open."""
    reason: str | None
    exit_code: int | None
    signal: int | None
    pid: int | None
    node: str
    claimed_at: StoreTime
    started_at: StoreTime | None
    ended_at: StoreTime | None
    last_heartbeat_at: StoreTime | None
    lease_expires_at: StoreTime | None
    progress: float | None
    note: str | None
    result: str | None
    error: str | None
    output_tail: str | None
    """The end of its output; None if unknown."""
    max_rss_bytes: int | None
    cpu_seconds: float | None
    output_path: str
    left_alone: tuple[str, ...] = ()
    """Processes that outlived it and were left running, as "name (pid)"."""
    leftovers: tuple[str, ...] = ()
    """Names of processes that outlived its leader and were ended."""
    output_truncated: int = 0
    """Bytes of output that it removed itself by truncating the file."""
    takeover_at: StoreTime | None = None
    """When another node may take it over unless its node confirms it; None if none may."""


class PausedQueue(Struct, frozen=True):
    """A queue that allows no claims until an operator resumes it."""

    queue: str
    reason: str
    paused_at: StoreTime


class Leases(Struct, frozen=True):
    """The leases of the running tasks; times are None if there is none."""

    running: int
    next_expiry: StoreTime | None
    oldest_renewal: StoreTime | None
    """The earliest last renewal of a lease."""
    oldest_heartbeat: StoreTime | None
    """The earliest last heartbeat, among runs that sent one."""


class Node(Struct, frozen=True, kw_only=True):
    """A node's row: one state directory on one host."""

    id: str
    boot_id: str
    pid_namespace: str
    hostname: str
    """For people; identity is the id."""
    slots: int
    seen_at: StoreTime
    seen_interval_ms: int
    """Between two writes of the row."""
    session: str = ""
    """The daemon that owns the row; "": none, as on an embedded store, or once it has stopped."""
    release: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    draining: str | None = None
    """Why an operator lets it take no more work; None: it takes work."""
    timeline: int = 0
    """That of the server with which its daemon last compared all runs; 0: an embedded store."""
    listen: str | None = None
    """Where others read the output of its runs, as `tls://HOST:PORT`; None: nowhere."""
    unconfirmed_ms: int | None = None
    """How long its runs go on unconfirmed, kill grace apart, with a margin; None: for ever."""
    obeys: Mapping[str, str] | None = None
    """What its file says of limits, by name; None: an older daemon does not write that."""

    @property
    def place(self) -> tuple[str, str, str]:
        """The boot, the pid namespace and the host of its daemon."""
        return self.boot_id, self.pid_namespace, self.hostname


class Pruned(Struct, frozen=True):
    """One bounded deletion: how many tasks, and the output files of their runs."""

    tasks: int
    output_paths: tuple[str, ...]
    more: bool = False
    """Whether more may be left to delete."""


class TaskFilter(Struct, frozen=True, kw_only=True):
    """Which tasks to list; None means any."""

    states: frozenset[TaskState] | None = None
    queue: str | None = None
    label: tuple[str, str] | None = None
    profile: str | None = None
    text: str | None = None
    """A part of the command, with its arguments joined by spaces, or of the label `name`."""
    since: StoreTime | None = None
    """Submitted at this time or later."""
    until: StoreTime | None = None
    """Submitted before this time."""
    finished_before: StoreTime | None = None
    after_id: int | None = None
    before_id: int | None = None
    """Only tasks with a smaller id: the next page, newest first."""
    oldest_first: bool = False
    limit: int = 100
