"""A task as it is submitted. `_ms` in a name means milliseconds."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from msgspec import Struct, field

from dispatcher.dependency import ParentFailure, TaskKey
from dispatcher.environment import Environment
from dispatcher.model import Liveness, TaskState
from dispatcher.named_limits import Units
from dispatcher.times import WallTime
from dispatcher.wire import KillMode

#: The priority of `--urgent`: before all tasks that were given none, in the order of their submits.
URGENT = 1000


#: The meanings that a profile may give to exit codes; its rules that do not concern them.
Meaning = Literal["succeeded", "failed", "deferred", "held"]
_OTHER_RULES: Final = frozenset(
    {("lost", "orphaned"), ("leftovers", "report"), ("output", "journal")}
)


def is_rule(name: str, word: str) -> bool:
    """Return whether a profile's rules may have this one."""
    return word in get_args(Meaning) or (name, word) in _OTHER_RULES


class NewTask(Struct, frozen=True, kw_only=True):
    command: tuple[str, ...]
    max_attempts: int
    lease_ttl_ms: int
    queue: str = "default"
    priority: int = 0
    ageing_ms: int | None = None
    """The waiting that one point of its priority is worth; None: any."""
    delay_ms: int = 0
    """From its submit."""
    start_at: WallTime | None = None
    """A date before which it does not start, by the host's clock when it is accepted."""
    cwd: str | None = None
    environment: Environment | None = None
    """Its submitter's, in place of what a run inherits from the executor; None: a clean one."""
    umask: int | None = None
    """None: as configured at the start of a run."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of its own, which take precedence."""
    payload: str | None = None
    """JSON text; the worker's stdin."""
    key: str | None = None
    """Idempotency key, unique per queue while the row exists."""
    concurrency_key: str | None = None
    """Of the tasks of a queue with the same one, one at a time is to be claimed or runs."""
    profile: str | None = None
    """The profile it was submitted with."""
    origin: str | None = None
    """What submitted it: `hook:NAME`; None: its submitter."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """Its profile's rules, fixed at submit: outcomes by exit code, and the profile's choices for
    `lost`, `leftovers` and `output`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    requires: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node must have to run it."""
    takes: Mapping[str, Units] = field(default_factory=dict)
    """Named limits that its runs take, and how much of each, fixed at submit."""
    after: tuple[int | TaskKey, ...] = ()
    """Its parents: it waits until each of them has succeeded."""
    after_any: tuple[int | TaskKey, ...] = ()
    """Parents that need only finish."""
    on_parent_failure: ParentFailure | None = None
    """What becomes of it if one of `after` does not succeed; None: hold."""
    liveness: Liveness = Liveness.PROCESS
    notify: bool = False
    """Whether its runs get a socket of systemd's protocol; with liveness `worker` all do."""
    run_timeout_ms: int | None = None
    stall_timeout_ms: int | None = None
    start_timeout_ms: int | None = None
    queue_timeout_ms: int | None = None
    total_timeout_ms: int | None = None
    kill_signal: int | None = None
    kill_mode: KillMode | None = None
    kill_grace_ms: int | None = None
    """None: the default of `execution`, so with all that follow."""
    backoff_min_ms: int | None = None
    backoff_max_ms: int | None = None
    cooldown_ms: int | None = None
    max_deferrals: int | None = None
    max_orphans: int | None = None


class Wait(Struct, frozen=True):
    """For how many parents a new task waits, and why it is not to run."""

    blockers: int | None = None
    broken: str | None = None

    def begins(self, task: NewTask, *, delayed: bool) -> tuple[TaskState, str]:
        """Return the first state of a task, and why it has that."""
        if self.broken is not None:
            is_over = task.on_parent_failure is ParentFailure.CANCEL
            return (TaskState.CANCELLED if is_over else TaskState.HELD), self.broken
        if self.blockers:
            return TaskState.WAITING, "it has parents"
        if delayed:
            return TaskState.SCHEDULED, "delayed by its submitter"
        return TaskState.READY, "submitted"


#: Of a task without parents.
NO_WAIT: Final = Wait()
