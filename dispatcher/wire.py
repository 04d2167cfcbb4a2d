"""Messages between daemon and executor: one JSON object a line."""

import enum
from typing import Annotated, NewType

import msgspec

#: This release. Daemon and executor report theirs: an upgrade leaves the old ones running.
RELEASE = "0.1.0"

#: Version of the daemon-executor protocol; a daemon speaks this one and the one before.
#: 2: sockets of systemd's protocol for workers. 3: marks, the outputs of all earlier runs, the
#: reason of an unkillable run, and recreated sockets. 4: the umask of a run, and whether it
#: inherits variables; `executor_api.for_version_3` replaces both.
VERSION = 4

#: Bytes of one line between daemon and executor: a payload of 1 MiB, escaped, and its command.
MAX_LINE = 4 * 1024 * 1024

#: Listening worker sockets that travel with one message.
MAX_LISTENERS = 8

#: Seconds by which the executor's deadline for a run is later than the daemon's own decision.
BACKSTOP = 2.0

#: The umask of a run for which nothing else is wanted.
UMASK = 0o022

#: 128 random bits in hex: a run's only name between processes.
RunUid = NewType("RunUid", str)

#: The numbers that kernel and database accept.
Pid = Annotated[int, msgspec.Meta(gt=0, le=2**22)]
Ticks = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Moment = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
"""An instant of an observation: up to three centuries of uptime."""


class Fault(enum.StrEnum):
    """The cause of a failed start."""

    TASK = "task"
    HOST = "host"
    LATE = "late"
    PREDECESSOR = "predecessor_alive"


class KillMode(enum.StrEnum):
    """The receivers of the kill signal: all processes of a run, or only its leader.

    The grace, and the SIGKILL after it, concern the whole tree in either case.
    """

    TREE = "tree"
    LEADER = "leader"


class RunState(enum.StrEnum):
    """The state of a run in the executor."""

    RUNNING = "running"
    LEADER_EXITED = "leader_exited"
    ENDING = "ending"
    UNKILLABLE = "unkillable"
    GONE = "gone"


class EndedBy(enum.StrEnum):
    """Endings that the executor begins by itself; any other ``ended_by`` is the daemon's reason."""

    ABSENCE = "absence"
    RUN_TIMEOUT = "run_timeout"
    SHUTDOWN = "shutdown"
    SWEPT = "swept"


class Exit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a run's leader ended; without code and signal its end was not observed (*vanished*)."""

    at: Moment
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, msgspec.Meta(ge=1, le=127)] | None = None
    max_rss_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    cpu_seconds: float | None = None
    oom: bool = False
    """The kernel killed the leader, or a process it waited for, for lack of memory."""
    oom_doubtful: bool = False
    """The kernel killed a process for lack of memory, maybe not one of this run."""
    leftovers: tuple[str, ...] = ()
    """Names of processes that outlived the leader and were ended."""
    left_alone: tuple[str, ...] = ()
    """Processes that outlived the leader and still run, as "name (pid)"."""
    output_truncated: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Bytes of output that the run itself truncated."""
    tail: str = ""
    """The end of the output, decoded with replacement."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """A line between daemon and executor."""


class Hello(Message, frozen=True, tag="hello"):
    """First line of a connection; the listening worker socket travels with it."""

    version: int
    node_id: str
    state_dir: str
    boot_id: str
    pid_namespace: str
    store_id: str
    epoch: int
    pid: int
    release: str = ""
    """The release of the executor's code; empty for one older than this field."""
    marks: bool = False
    """Whether the processes of its runs carry the mark of their run."""


class RunReport(Message, frozen=True, tag="run"):
    """One run that the executor has not forgotten; sent between hello and its end."""

    uid: RunUid
    state: RunState
    pid: Pid | None = None
    start_ticks: Ticks | None = None
    exit: Exit | None = None
    ended_by: str | None = None
    until: float | None = None
    """The end of the extension that its worker requested."""
    reason: str = ""
    """Why an `unkillable` run is not gone; of another, the processes that may not be signalled."""


class HelloEnd(Message, frozen=True, tag="hello_end"):
    """All runs were sent."""


class Started(Message, frozen=True, tag="started"):
    """The run's leader has started."""

    uid: RunUid
    pid: Pid
    start_ticks: Ticks
    at: Moment


class StartFailed(Message, frozen=True, tag="start_failed"):
    """The run has no process, and the executor has forgotten it."""

    uid: RunUid
    fault: Fault
    error: str


class Changed(Message, frozen=True, tag="changed"):
    """A run has changed its state, and is not gone."""

    uid: RunUid
    state: RunState
    exit: Exit | None = None
    ended_by: str | None = None
    reason: str = ""
    """Why an `unkillable` run is not gone; of another, the processes that may not be signalled."""


class Exited(Message, frozen=True, tag="exited"):
    """A run's whole process tree is confirmed gone."""

    uid: RunUid
    exit: Exit
    ended_by: str | None = None


class Notice(Message, frozen=True, tag="notice"):
    """What a worker sent by systemd's protocol since its last notice; repeated until noted.

    In a greeting it precedes the runs, so that it precedes a later exit.
    """

    uid: RunUid
    serial: int
    beat: bool = False
    note: str | None = None
    failed: bool = False
    until: float | None = None
    """Instant to which it requests to extend its run time-out."""


class Stray(Message, frozen=True, tag="stray"):
    """A process that descends from one of several runs, unknown from which."""

    pid: int
    name: str
    candidates: tuple[RunUid, ...]
    """At most the last twenty to start."""


class Door(Message, frozen=True, tag="door"):
    """The workers' sockets were removed, and are recreated or cannot be yet.

    The new worker socket travels with this line or an earlier one, followed by those without a
    name at which workers still wait.
    """

    shut: str = ""
    """Why they cannot be recreated; empty: they are."""


class Pong(Message, frozen=True, tag="pong"):
    """The answer to a ping."""

    sequence: int


class Start(Message, frozen=True, tag="start"):
    """Start a run. Refused for a known uid, an old epoch, or a deadline that has passed."""

    uid: Annotated[RunUid, msgspec.Meta(pattern="^[0-9A-Za-z_-]{1,64}$")]
    epoch: int
    command: tuple[str, ...]
    env: dict[str, str]
    output_path: str
    inherits: bool = True
    """Whether it inherits the allowed variables of the executor too; False: `env` is all."""
    umask: Annotated[int, msgspec.Meta(ge=0, le=0o777)] = UMASK
    cwd: str | None = None
    output_budget: int | None = None
    """How many of the last bytes of output are kept; None: all."""
    to_journald: bool = False
    """Forward the output to systemd's journal too; an executor older than this field does not."""
    payload: str | None = None
    parents: str | None = None
    """What the worker reads from descriptor `worker_api.PARENTS`; an older executor drops it."""
    previous_output_path: str | None = None
    earlier_output_paths: tuple[str, ...] = ()
    """Outputs of the task's earlier runs here; while one is locked, this run does not start."""
    kill_signal: Annotated[int, msgspec.Meta(ge=1, le=64)] = 15
    kill_mode: KillMode = KillMode.TREE
    """An executor older than this field signals the tree."""
    kill_grace: float = 10.0
    leftover_grace: float = 2.0
    report_leftovers: bool = False
    """Report processes that outlive the leader by `leftover_grace`, instead of ending them."""
    deadlines: dict[str, float] = {}
    """Instant at which the executor ends the run by itself, by `EndedBy`."""
    watchdog: float | None = None
    """Seconds between signs of life by systemd's protocol; None: no socket for it."""
    longest: float | None = None
    """Instant to which the worker may extend its run time-out; None: it has none."""


class Renew(Message, frozen=True, tag="renew"):
    """Move kill deadlines of many runs to later instants."""

    deadlines: dict[RunUid, dict[str, float]]


class End(Message, frozen=True, tag="end"):
    """End a run's whole tree; a second one with `at_once` cuts the grace short."""

    uid: RunUid
    reason: str
    at_once: bool = False
    longest_grace: float | None = None
    """Upper bound of the kill grace in seconds; None: the run's own."""


class Noted(Message, frozen=True, tag="noted"):
    """A notice and all before it were committed or refused."""

    uid: RunUid
    serial: int


class Forget(Message, frozen=True, tag="forget"):
    """Forget a settled run, unless it still lives."""

    uid: RunUid


class Leave(Message, frozen=True, tag="leave"):
    """Exit as soon as nothing is live or unforgotten."""


class Ping(Message, frozen=True, tag="ping"):
    """Request a `Pong`."""

    sequence: int


Greeting = Hello | RunReport | HelloEnd
FromExecutor = Greeting | Started | StartFailed | Changed | Exited | Notice | Stray | Door | Pong
ToExecutor = Start | Renew | End | Noted | Forget | Leave | Ping

encode = msgspec.json.Encoder().encode
decode_from_executor = msgspec.json.Decoder(FromExecutor).decode
decode_to_executor = msgspec.json.Decoder(ToExecutor).decode
