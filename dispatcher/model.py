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
