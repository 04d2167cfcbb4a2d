"""States, moves, outcomes and the values that the store, the supervisor and the client share.

Pure: no clock, no database, no process. Durations are milliseconds and say so in their names.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid


class TaskState(enum.StrEnum):
    """Where a task is in its life."""

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: Every legal move. The schema's CHECK constraints and docs/design.md 4.1 repeat it.
MOVES: Mapping[TaskState, frozenset[TaskState]] = MappingProxyType(
    {
        TaskState.WAITING: frozenset(
            {
                TaskState.SCHEDULED,
                TaskState.READY,
                TaskState.HELD,
                TaskState.FAILED,
                TaskState.CANCELLED,
            }
        ),
        TaskState.SCHEDULED: frozenset(
            {TaskState.READY, TaskState.HELD, TaskState.FAILED, TaskState.CANCELLED}
        ),
        TaskState.READY: frozenset(
            {TaskState.RUNNING, TaskState.HELD, TaskState.FAILED, TaskState.CANCELLED}
        ),
        TaskState.RUNNING: frozenset(
            {
                TaskState.READY,
                TaskState.SCHEDULED,
                TaskState.HELD,
                TaskState.SUCCEEDED,
                TaskState.FAILED,
                TaskState.CANCELLED,
            }
        ),
        TaskState.HELD: frozenset(
            {TaskState.READY, TaskState.SCHEDULED, TaskState.FAILED, TaskState.CANCELLED}
        ),
        TaskState.SUCCEEDED: frozenset(),
        TaskState.FAILED: frozenset({TaskState.READY}),
        TaskState.CANCELLED: frozenset({TaskState.READY}),
    }
)

#: States in which a task has nothing more to do, unless an operator says `retry`.
FINISHED = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})


class Outcome(enum.StrEnum):
    """How a run ended: a closed list, one row each in docs/design.md 5.1."""

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
    """Who renews a task's lease: the daemon while the process lives, or only the worker's beats."""

    PROCESS = "process"
    WORKER = "worker"


class Declared(enum.StrEnum):
    """A worker's own word on its outcome, effective when its process is gone."""

    SUCCEED = "succeed"
    FAIL = "fail"
    DEFER = "defer"
    HOLD = "hold"


class Intent(enum.StrEnum):
    """An operator's word on a running task: where it goes once its run is settled."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"


#: Where an operator's word moves a task.
INTENDED: Mapping[Intent, TaskState] = MappingProxyType(
    {
        Intent.CANCEL: TaskState.CANCELLED,
        Intent.HOLD: TaskState.HELD,
        Intent.RELEASE: TaskState.READY,
        Intent.RETRY: TaskState.READY,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What a submitter asks for."""

    command: tuple[str, ...]
    max_attempts: int
    lease_ttl_ms: int
    queue: str = "default"
    priority: int = 0
    delay_ms: int = 0
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    payload: str | None = None
    """JSON text, given to the worker on stdin."""
    key: str | None = None
    """Idempotency key, unique per queue while the row exists."""
    profile: str | None = None
    """What it was submitted as."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """Its profile's rules, fixed at submit: outcomes by exit code, what `lost` counts as, what
    becomes of `leftovers`, where its `output` goes."""
    labels: Mapping[str, str] = field(default_factory=dict)
    liveness: Liveness = Liveness.PROCESS
    notify: bool = False
    """Whether its runs get a socket of systemd's protocol; with liveness `worker` all do."""
    run_timeout_ms: int | None = None
    stall_timeout_ms: int | None = None
    start_timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    total_timeout_ms: int | None = None
    kill_grace_ms: int | None = None
    kill_signal: int | None = None
    kill_mode: KillMode | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The task that now exists; `created` is false when its key had brought it before."""

    task_id: int
    created: bool
    differs: tuple[str, ...] = ()
    """Of a task that its key had brought before: which of `command` and `payload` were others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row of `tasks`, as people may see it: without the lock."""

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
    """Of `max_attempts`: by runs whose outcome counts."""
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
    kill_grace_ms: int | None = None
    kill_signal: int | None = None
    kill_mode: KillMode | None = None
    notify: bool = False
    profile: str | None = None
    fails_at: StoreTime | None = None
    """When it fails unless it runs (queue time-out) or has ended (total time-out) by then."""
    intent: Intent | None = None
    """Where an operator wants it to go once its run is settled."""
    intent_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a run in time, and how it is ended; None: nothing, or the node's default."""

    run_timeout_ms: int | None = None
    stall_timeout_ms: int | None = None
    start_timeout_ms: int | None = None
    total_at: StoreTime | None = None
    """When the task's total time-out is over."""
    kill_signal: int | None = None

    def deadline(self, begun_at: StoreTime) -> StoreTime | None:
        """Return when the time of a run is over that began then, in the store's time."""
        if self.run_timeout_ms is None:
            return self.total_at
        run_by = StoreTime(begun_at + self.run_timeout_ms)
        return run_by if self.total_at is None else min(run_by, self.total_at)


#: Of most runs.
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of `runs`, as people may see it: without the lock."""

    id: int
    uid: RunUid
    task_id: int
    attempt: int
    """The attempt it was, from 1."""
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
    """The end of what it wrote, "" where that is nothing; None where nobody knows."""
    max_rss_bytes: int | None
    cpu_seconds: float | None
    output_path: str
    left_alone: tuple[str, ...] = ()
    """Processes that outlived it and go on, as "name (pid)"."""
    leftovers: tuple[str, ...] = ()
    """Names of processes that outlived its leader and were ended."""
    output_truncated: int = 0
    """Bytes of its output that it removed itself, by truncating the file."""


@dataclass(frozen=True, slots=True)
class PausedQueue:
    """A queue from which nobody claims until an operator resumes it."""

    queue: str
    reason: str
    paused_at: StoreTime


@dataclass(frozen=True, slots=True)
class Leases:
    """How the leases of the running tasks stand; times are None where there is none."""

    running: int
    next_expiry: StoreTime | None
    oldest_renewal: StoreTime | None
    """When the lease that was not renewed for longest was."""
    oldest_heartbeat: StoreTime | None
    """The same of heartbeats, among the runs that sent one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The exclusive right to run one task until the lease expires, and all it takes to start it."""

    task_id: int
    run_id: int
    run_uid: RunUid
    fence: int
    lock: str = field(repr=False)
    attempt: int
    queue: str
    command: tuple[str, ...]
    payload: str | None = field(repr=False)
    cwd: str | None
    env: Mapping[str, str] = field(repr=False)
    liveness: Liveness
    lease_ttl_ms: int
    lease_expires_at: StoreTime
    output_path: str
    last_outcome: Outcome | None
    """Outcome of the task's previous run, whichever node ran it."""
    earlier_output_paths: tuple[str, ...] = ()
    """Output files of the task's runs on this node that may still live, the latest first."""
    notify: bool = False
    limits: Limits = NO_LIMITS
    kill_grace_ms: int | None = None
    """Between the kill signal and SIGKILL: as it was at the claim, whatever a reload says since."""
    kill_mode: KillMode = KillMode.TREE
    profile: str | None = None
    reports_leftovers: bool = False
    """Whether what outlives the leader is named, not ended."""
    output_to_journald: bool = False
    """Whether its output goes to systemd's journal too."""

    @property
    def watchdog(self) -> float | None:
        """Seconds within which systemd's protocol asks for a sign of life; None: no such socket."""
        wanted = self.notify or self.liveness is Liveness.WORKER
        return self.lease_ttl_ms / 1000 if wanted else None


#: What the owner of a claim begins with that no node made, but somebody's shell or program.
LOCAL = "local:"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that is not closed, with what it takes to settle it."""

    task_id: int
    run_id: int
    run_uid: RunUid
    fence: int
    attempt: int
    queue: str
    liveness: Liveness
    lease_ttl_ms: int
    ending: Outcome | None
    ending_reason: str | None
    pid: int | None
    exit_code: int | None
    """The leader's, when it was seen before the tree was gone."""
    signal: int | None
    attempts_used: int
    """Used up before this run."""
    max_attempts: int
    deferrals: int
    orphans: int
    owner: str
    """The node's id, or who claimed it from outside any node."""
    declared: Declared | None = None
    declared_reason: str | None = None
    declared_delay_ms: int | None = None
    declared_retry: bool = True
    last_heartbeat_at: StoreTime | None = None
    progressed_at: StoreTime | None = None
    """When a heartbeat last told of another progress or note than the one before."""
    limits: Limits = NO_LIMITS
    kill_grace_ms: int | None = None
    """As in `Claim`."""
    output_path: str = ""
    rules: Mapping[str, str] = field(default_factory=dict)
    """As in `NewTask`."""
    intent: Intent | None = None
    intent_reason: str | None = None
    lease_expires_at: StoreTime | None = None
    deadline_at: StoreTime | None = None
    """Of a local claim: when its time is over, whatever its beats say; None: never."""

    @property
    def leader_exited(self) -> bool:
        """Whether its leader's end was seen, and only what it left is waited for."""
        return self.exit_code is not None or self.signal is not None

    @property
    def is_ending(self) -> bool:
        """Whether its end has begun: decided, declared, or its leader's."""
        return self.ending is not None or self.declared is not None or self.leader_exited

    @property
    def ran_out_of_time(self) -> bool:
        """Whether its lease went up to its deadline and could go no further."""
        return self.deadline_at is not None and self.lease_expires_at == self.deadline_at

    @property
    def is_local(self) -> bool:
        """Whether no node runs it, but somebody's shell or program drives it."""
        return self.owner.startswith(LOCAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a run is closed and where its task goes: what one settle writes."""

    run_uid: RunUid
    outcome: Outcome
    run_reason: str
    """Why the run ended, for people."""
    state: TaskState
    reason: str
    """Why the task is where it goes, for people."""
    run_at: StoreTime | None
    """When the task may be claimed again; None where it may not, or at once."""
    total_anew: bool = False
    """Whether its total time-out begins anew, as after a `retry`."""
    attempts_used: int
    deferrals: int
    orphans: int
    exit_code: int | None = None
    signal: int | None = None
    output_tail: str | None = None
    max_rss_bytes: int | None = None
    cpu_seconds: float | None = None
    pid: int | None = None
    started_at: StoreTime | None = None
    ended_at: StoreTime
    left_alone: tuple[str, ...] = ()
    """Processes that outlived it and go on, as "name (pid)"."""
    leftovers: tuple[str, ...] = ()
    """Names of processes that outlived its leader and were ended."""
    output_truncated: int = 0
    """Bytes of its output that it removed itself, by truncating the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One state directory on one host, as its row says."""

    id: str
    boot_id: str
    pid_namespace: str
    hostname: str
    """For people; identity is the id."""
    slots: int
    seen_at: StoreTime
    seen_interval_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A task that failed without a run, because its time was over."""

    task_id: int
    queue: str
    timeout: Literal["queue_timeout", "total_timeout"]
    reason: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one bounded deletion took: how many tasks, and the output files of what runs."""

    tasks: int
    output_paths: tuple[str, ...]
    more: bool = False
    """Whether there may be more that it was asked to delete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks to list; None means any."""

    states: frozenset[TaskState] | None = None
    queue: str | None = None
    label: tuple[str, str] | None = None
    profile: str | None = None
    text: str | None = None
    """A part of the command, its arguments put together with spaces."""
    since: StoreTime | None = None
    """Submitted then or later."""
    until: StoreTime | None = None
    """Submitted before."""
    after_id: int | None = None
    before_id: int | None = None
    """Only tasks with a smaller id: the next page, as the newest come first."""
    oldest_first: bool = False
    limit: int = 100
