"""The executor as the supervisor sees it: messages out, events in, no socket."""

import signal
import sys
from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct, field

from dispatcher import wire, worker_api
from dispatcher.execution import Claim, Limits
from dispatcher.times import Instant, StoreTime, instant_of
from dispatcher.wire import RunUid


class Connected(Struct, frozen=True):
    """A new connection, whose greeting named every run that the executor knows: reconcile."""

    hello: wire.Hello
    runs: tuple[wire.RunReport, ...]


class OutputState(Struct, frozen=True):
    size: int
    """Bytes."""
    modified_at: float
    """Seconds since 1970 of the last write. A write may leave the size unchanged: one that
    truncates the file and writes as much again."""
    age: float
    """Seconds since the last write, by the host's clock, which may have been set since."""

    @property
    def version(self) -> tuple[int, float]:
        """A value that differs after each write, but not after an empty file is created."""
        return (self.size, self.modified_at if self.size else 0.0)


class Disconnected(Struct, frozen=True):
    """No executor answers; its last events hold."""

    reason: str


#: The variables of a locale that an executor of version 3 passes on: locale(7).
_LOCALE = (
    *("LC_ADDRESS", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT"),
    *("LC_MESSAGES", "LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME"),
)

#: A program for Python: becomes a command with a umask, and without some variables. The kernel has
#: the environment as it was sent, also where Python has set a locale of its own.
_BECOME = """
import os, signal, sys
umask, dropped, *command = sys.argv[1:]
os.umask(int(umask, 8))
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
with open("/proc/self/environ", "rb") as file:
    sent = dict(one.split(b"=", 1) for one in file.read().split(b"\\0") if b"=" in one)
for name in dropped.split():
    sent.pop(name.encode(), None)
try:
    os.execvpe(command[0], command, sent)
except OSError as error:
    print(f"{command[0]}: {error.strerror}", file=sys.stderr)
    sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
"""

#: The remedy for processes that no executor ends; ends each text of `survivors`.
END_THEM = "; end them, or wait until they exit"

Event = (
    Connected
    | Disconnected
    | wire.Started
    | wire.StartFailed
    | wire.Changed
    | wire.Exited
    | wire.Notice
    | wire.Stray
    | wire.Door
)


class ExecutorApi(Protocol):
    """The executor, for the deciding part."""

    @property
    def answering(self) -> bool:
        """Whether it greeted us and answers pings; if not, nothing is started or ended."""

    @property
    def missing(self) -> bool:
        """Whether no executor listens, and none could be started."""

    @property
    def greeting(self) -> wire.Hello | None:
        """The greeting of the current connection: the object in its `Connected`."""

    @property
    def incompatible(self) -> wire.Hello | None:
        """The greeting of a connected executor that speaks another version."""

    @property
    def last_error(self) -> str | None:
        """The last error of an executor that exited; None: one is running, or no error is known."""

    @property
    def silent(self) -> bool:
        """Whether it holds our connection, greeted or not, and has sent nothing for too long."""

    @property
    def last_read_at(self) -> Instant:
        """When anything was last read from it."""

    def has_answered(self, *, since: Instant) -> bool:
        """Return whether it answered a ping sent after an instant; if not, ping it.

        Messages are ordered: once it has answered, every earlier exit has arrived.
        """

    def send(self, message: wire.ToExecutor) -> None:
        """Queue a message; lost when the connection ends, which `Disconnected` reports."""

    def reconnect(self) -> None:
        """Drop the connection and greet again: after a commit whose result is unknown."""

    def output_state(self, path: str, pid: int | None) -> OutputState:
        """Return the state of a run's output file, even if its name was removed or reused.

        `pid` is the leader's. If neither leads to a file, nothing was written.
        """

    def survivors(self, runs: Mapping[RunUid, Collection[str]]) -> Mapping[RunUid, str]:
        """Return which of these runs may have living processes on this host, and which processes.

        `runs` gives the output paths of each run; the executor does not know these runs.
        """


class StartSettings(Struct, frozen=True, kw_only=True):
    """Settings of every start on this node. Graces in seconds."""

    worker_socket: str
    exit_grace: float = 10.0
    leftover_grace: float = 2.0
    output_budget: int | None = None
    """Bytes of a run's output that are kept; None: all."""
    umask: int = wire.UMASK
    """The umask of tasks without their own."""
    configuration: Mapping[str, str] = field(default_factory=dict)
    """Variables that point a worker's own calls to this dispatcher's store."""
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Secrets for the tasks of a profile, in memory and in the environment of their workers."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Why no task of a profile can start, by profile."""

    def __repr__(self) -> str:
        """Return it without the secrets of its environments."""
        return f"StartSettings({self.worker_socket!r}, {len(self.environments)} environments)"


def run_deadline(run_by: Instant) -> dict[str, float]:
    """Return the kill deadline by which the executor ends a run that the daemon did not end."""
    return {wire.EndedBy.RUN_TIMEOUT: run_by + wire.BACKSTOP}


def latest_run_end(
    limits: Limits, began: Instant, *, now: StoreTime, at: Instant
) -> Instant | None:
    """Return the instant to which a worker may move its run time-out; None: it has none."""
    if limits.run_timeout_ms is None:
        return None
    if limits.total_at is not None:
        return instant_of(limits.total_at, now=now, at=at)
    return Instant(began + 2 * limits.run_timeout_ms / 1000)


def start_message(
    claim: Claim,
    settings: StartSettings,
    *,
    epoch: int,
    now: StoreTime,
    at: Instant,
    deadlines: Mapping[str, float],
) -> wire.Start:
    """Return the message that starts a claim's worker, with the lock in its environment."""
    limits, run_timeout = claim.limits, claim.limits.run_timeout_ms
    run_by = {} if run_timeout is None else run_deadline(Instant(at + run_timeout / 1000))
    return wire.Start(
        uid=claim.run_uid,
        epoch=epoch,
        command=claim.command,
        env=_variables(claim, settings),
        inherits=claim.environment is None or claim.environment.inherits,
        umask=settings.umask if claim.umask is None else claim.umask,
        cwd=claim.cwd,
        payload=claim.payload,
        parents=claim.parents if is_long(claim.parents) else None,
        output_path=claim.output_path,
        output_budget=settings.output_budget,
        previous_output_path=next(iter(claim.earlier_output_paths), None),
        earlier_output_paths=claim.earlier_output_paths[1:],
        kill_signal=limits.kill_signal or signal.SIGTERM,
        kill_mode=claim.kill_mode,
        kill_grace=claim.kill_grace_ms / 1000,
        leftover_grace=settings.leftover_grace,
        report_leftovers=claim.reports_leftovers,
        to_journald=claim.output_to_journald,
        deadlines={**deadlines, **run_by},
        watchdog=claim.watchdog,
        longest=latest_run_end(limits, at, now=now, at=at),
    )


def for_version_3(start: wire.Start) -> wire.Start:
    """Return a start with which an executor of version 3 does the same.

    Python sets the umask and drops what the run must not inherit, then becomes the program; one
    that cannot start exits as in a shell. A shell itself would change variables that it treats as
    its own, and show others in its arguments.
    """
    allowed = () if start.inherits else (*worker_api.ENVIRONMENT_ALLOWED, *_LOCALE)
    dropped = " ".join(name for name in allowed if name not in start.env)
    wrapper = (sys.executable, "-I", "-S", "-c", _BECOME, f"{start.umask:o}", dropped)
    return msgspec.structs.replace(
        start, command=(*wrapper, *start.command), inherits=True, umask=wire.UMASK
    )


def _variables(claim: Claim, settings: StartSettings) -> dict[str, str]:
    """Return a run's variables: its submitter's; in their place its own; the dispatcher's."""
    submitters: Mapping[str, str] = {}
    if claim.environment is not None:
        directory = {} if claim.cwd is None else {"PWD": claim.cwd}
        submitters = {**claim.environment.variables, **directory}
    secrets = settings.environments.get(claim.profile or "", {})
    named = {worker_api.SECRETS: " ".join(sorted(secrets))} if secrets else {}
    own = {**secrets, **named, **claim.env}
    # A task that names another configuration gets none of ours.
    place = {} if "DISPATCHER_CONFIG" in own else settings.configuration
    return {**submitters, **place, **own, **worker_environment(claim, settings.worker_socket)}


def worker_environment(claim: Claim, worker_socket: str) -> dict[str, str]:
    """Return the variables that describe its claim to a worker; a task cannot override them."""
    ttl = claim.lease_ttl_ms / 1000
    return {
        "DISPATCHER_TASK_ID": str(claim.task_id),
        "DISPATCHER_RUN_ID": str(claim.run_id),
        worker_api.MARKER: claim.run_uid,
        "DISPATCHER_ATTEMPT": str(claim.attempt),
        "DISPATCHER_FENCE": str(claim.fence),
        "DISPATCHER_CLAIM_LOCK": claim.lock,
        "DISPATCHER_SOCKET": worker_socket,
        "DISPATCHER_LEASE_TTL": f"{ttl:g}",
        "DISPATCHER_HEARTBEAT_INTERVAL": f"{ttl / 3:.3f}",
        "DISPATCHER_QUEUE": claim.queue,
        "DISPATCHER_LAST_OUTCOME": claim.last_outcome or "",
        **_parents(claim.parents),
        **{name: text for name, text in _handed_over(claim).items() if text is not None},
    }


def _handed_over(claim: Claim) -> dict[str, str | None]:
    return {
        "DISPATCHER_PREVIOUS": claim.previous,
        "DISPATCHER_CHECKPOINT": claim.checkpoint,
        "DISPATCHER_ANSWER": claim.answer,
    }


def is_long(parents: str | None) -> bool:
    """Return whether the parents of a task are too long for a variable."""
    return parents is not None and len(parents.encode()) > worker_api.MAX_PARENTS


def _parents(parents: str | None) -> dict[str, str]:
    if parents is None:
        return {}
    if is_long(parents):
        return {"DISPATCHER_PARENTS_FILE": f"/proc/self/fd/{worker_api.PARENTS}"}
    return {"DISPATCHER_PARENTS": parents}
