"""One execution of a task: its claim, its open run, its settlement."""

from collections.abc import Collection, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from dispatcher.environment import Environment
from dispatcher.model import Declared, Intent, Liveness, Outcome, TaskState
from dispatcher.quantities import durations
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode, RunUid

#: The longest time-out, delay or lease of a task.
LONGEST: Final = durations.parse("3650d")

#: The largest number of attempts, deferrals or orphans; other programs read 32 bits.
MOST: Final = 2**31 - 1

# What a stored number may be: beyond these it is damage. Fences also grow by restores.
Duration = Annotated[int, Meta(ge=0, le=int(LONGEST))]
Lease = Annotated[int, Meta(ge=1, le=int(LONGEST))]
Count = Annotated[int, Meta(ge=0, le=MOST)]
Attempts = Annotated[int, Meta(ge=1, le=MOST)]
Fence = Annotated[int, Meta(ge=0, le=2**53)]


class Limits(Struct, frozen=True, kw_only=True):
    """A run's time limits, and the signal that ends it; None: no limit, or SIGTERM."""

    run_timeout_ms: Duration | None = None
    stall_timeout_ms: Duration | None = None
    start_timeout_ms: Duration | None = None
    total_at: StoreTime | None = None
    """End of the task's total time-out."""
    kill_signal: Annotated[int, Meta(ge=1, le=64)] | None = None

    def deadline(self, begun_at: StoreTime) -> StoreTime | None:
        """Return when the time of a run that began at `begun_at` is over."""
        if self.run_timeout_ms is None:
            return self.total_at
        run_by = StoreTime(begun_at + self.run_timeout_ms)
        return run_by if self.total_at is None else min(run_by, self.total_at)


NO_LIMITS = Limits()


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Budgets and delays of a task's repeated runs, fixed at its submit.

    The defaults are those of a task that stores no others, whatever is configured later.
    """

    max_deferrals: Count = 100
    max_orphans: Count = 5
    backoff_min_ms: Duration = 10_000
    backoff_max_ms: Duration = 900_000
    cooldown_ms: Duration = 60_000


BUILT_IN: Final = RetryPolicy()

#: From the kill signal to SIGKILL, likewise.
KILL_GRACE_MS: Final = 10_000


class Claim(Struct, frozen=True, kw_only=True):
    """The exclusive right to run one task until its lease expires, and what its start needs."""

    task_id: int
    run_id: int
    run_uid: RunUid
    fence: int
    lock: str
    attempt: int
    queue: str
    command: tuple[str, ...]
    payload: str | None
    cwd: str | None
    env: Mapping[str, str]
    liveness: Liveness
    lease_ttl_ms: int
    lease_expires_at: StoreTime
    output_path: str
    last_outcome: Outcome | None
    """Outcome of the task's previous run, on any node."""
    earlier_output_paths: tuple[str, ...] = ()
    """Output files of the task's runs on this node that may still be alive, latest first."""
    notify: bool = False
    limits: Limits = NO_LIMITS
    kill_grace_ms: int = KILL_GRACE_MS
    """From the kill signal to SIGKILL, as fixed at the submit."""
    kill_mode: KillMode = KillMode.TREE
    environment: Environment | None = None
    """As in `NewTask`, like the umask."""
    umask: int | None = None
    profile: str | None = None
    reports_leftovers: bool = False
    """Whether processes that outlive the leader are reported, not ended."""
    output_to_journald: bool = False
    """Whether its output is also sent to systemd's journal."""
    previous: str | None = None
    """How its last run ended, as JSON; None: this is the first."""
    checkpoint: str | None = None
    """The last one that a run of it reported: JSON."""
    answer: str | None = None
    """A person's answer to the last question, with that, as JSON."""
    parents: str | None = None
    """Its parents with their results, as JSON; None: it has none."""

    def __repr__(self) -> str:
        """Return it without its secrets: lock, payload and variables."""
        return f"Claim(task_id={self.task_id}, run_uid={self.run_uid!r}, fence={self.fence})"

    @property
    def watchdog(self) -> float | None:
        """The watchdog interval of systemd's protocol in seconds; None without its socket."""
        wanted = self.notify or self.liveness is Liveness.WORKER
        return self.lease_ttl_ms / 1000 if wanted else None


class Claims(list[Claim]):
    """The claims of one call."""

    again = False
    """Whether damaged tasks were held instead: commit, and call again."""
    lane: str | None = None
    """The last lane of the queue that was looked at, if there are more behind it."""

    opens_at: StoreTime | None = None
    """When a limit may have more room by itself."""
    busy = False
    """Whether another node was claiming the same, or with the same limit: call again after a
    moment."""


#: Prefix of the owner of a local claim, made by a shell or program instead of a node.
LOCAL = "local:"


class BegunEnding(Struct, frozen=True):
    """The decision to end an open run, as the executor is to be told."""

    run_uid: RunUid
    ending: Outcome | None
    ending_reason: str | None


class OpenRun(Struct, frozen=True, kw_only=True):
    """A run that is not closed, with all that its settlement needs."""

    task_id: int
    run_id: int
    run_uid: RunUid
    fence: Fence
    attempt: Attempts
    queue: str
    liveness: Liveness
    lease_ttl_ms: Lease
    ending: Outcome | None
    ending_reason: str | None
    pid: int | None
    exit_code: int | None
    """The leader's, if it exited before its tree was gone."""
    signal: int | None
    attempts_used: Count
    """Used up before this run."""
    max_attempts: Attempts
    deferrals: Count
    orphans: Count
    owner: str
    """The node's id, or the owner of a local claim."""
    declared: Declared | None = None
    declared_reason: str | None = None
    declared_delay_ms: Annotated[int, Meta(ge=0, le=10**12)] | None = None
    declared_retry: bool = True
    last_heartbeat_at: StoreTime | None = None
    progressed_at: StoreTime | None = None
    """When a heartbeat last reported a changed progress or note."""
    limits: Limits = NO_LIMITS
    retry: RetryPolicy = BUILT_IN
    kill_grace_ms: Duration = KILL_GRACE_MS
    """As in `Claim`."""
    output_path: str = ""
    rules: Mapping[str, str] = field(default_factory=dict)
    """As in `NewTask`."""
    awaited: bool = False
    """Whether other tasks may wait for its end."""
    intent: Intent | None = None
    intent_reason: str | None = None
    lease_expires_at: StoreTime | None = None
    deadline_at: StoreTime | None = None
    """When the time of a local claim is over despite heartbeats; None: never."""

    @property
    def leader_exited(self) -> bool:
        """Whether its leader is gone, and at most the rest of its tree lives."""
        return self.exit_code is not None or self.signal is not None

    @property
    def is_ending(self) -> bool:
        """Whether its end has begun: by an ending, a declaration, or its leader's exit."""
        return self.ending is not None or self.declared is not None or self.leader_exited

    @property
    def ran_out_of_time(self) -> bool:
        """Whether its deadline ended its lease."""
        return self.deadline_at is not None and self.lease_expires_at == self.deadline_at

    @property
    def is_local(self) -> bool:
        """Whether a shell or program drives it, not a node."""
        return self.owner.startswith(LOCAL)


class StartedRun(Struct, frozen=True, kw_only=True):
    """A run whose leader was started."""

    uid: RunUid
    pid: int
    at: StoreTime


class GivenUp(Struct, frozen=True, kw_only=True):
    """A task that failed while it did not run, as its time was over."""

    task_id: int
    queue: str
    timeout: Literal["queue_timeout", "total_timeout"]
    reason: str


class Settlement(Struct, frozen=True, kw_only=True):
    """What one settle writes: how a run is closed, and where its task goes."""

    run_uid: RunUid
    task_id: int
    outcome: Outcome
    run_reason: str
    """Why the run ended."""
    state: TaskState
    reason: str
    """Why the task is in its state."""
    run_at: StoreTime | None
    """When the task may be claimed again; None: at once, or not at all."""
    total_anew: bool = False
    """Whether its total time-out starts again, as after a `retry`."""
    by_worker: bool = False
    """Whether its worker declared it, and no operator decided otherwise."""
    awaited: bool = False
    """Whether other tasks may wait for it: as a parent, or for what it holds."""
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
    """Processes that outlived it and were left running, as "name (pid)"."""
    leftovers: tuple[str, ...] = ()
    """Names of processes that outlived its leader and were ended."""
    output_truncated: int = 0
    """Bytes of output that it removed itself by truncating the file."""


class Rows(Struct, frozen=True, kw_only=True):
    """Tasks by their ids, by those of their runs, and by the node on which they run."""

    tasks: Collection[int] = ()
    runs: Collection[RunUid] = ()
    node: str | None = None

    def __bool__(self) -> bool:
        return bool(self.tasks or self.runs) or self.node is not None


NO_ROWS: Final = Rows()


class Held(Struct, frozen=True, kw_only=True):
    """What other transactions have locked of a node's rows."""

    tasks: Mapping[RunUid, int] = {}
    """Open runs of which nothing can be recorded, with their tasks: one of both is locked."""
    runs: frozenset[RunUid] = frozenset()
    """Those among them whose own rows are locked, so that they cannot be confirmed either."""
    node: bool = False
    """Whether the node's own row is locked, so that it neither claims nor writes the row."""

    def __bool__(self) -> bool:
        return bool(self.tasks) or self.node


NONE_HELD: Final = Held()
