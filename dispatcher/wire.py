"""What crosses process borders: messages, one JSON object a line, error names, exit codes."""

from __future__ import annotations

import enum
from typing import Annotated, NewType

import msgspec

from dispatcher.complaints import UNREADABLE, in_words

#: This release. Daemon and executor say theirs, as an upgrade leaves the old ones running.
RELEASE = "0.1.0"

#: Version of the daemon-executor protocol; a daemon speaks this one and the one before.
#: 2: sockets of systemd's protocol for workers. 3: marks, the outputs of all earlier runs, and the
#: reason of an unkillable run, and sockets that are made again. An executor of version 2 knows none
#: of these.
VERSION = 3

#: Bytes of one line between daemon and executor: a payload of 1 MiB, escaped, and its command.
MAX_LINE = 4 * 1024 * 1024

#: Seconds by which the executor's deadline for a run is behind the daemon's own decision.
BACKSTOP = 2.0

#: 128 random bits in hex: a run's only name between processes.
RunUid = NewType("RunUid", str)

#: What a number may be, so that kernel and database take it.
Pid = Annotated[int, msgspec.Meta(gt=0, le=2**22)]
Ticks = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Moment = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
"""An instant at which something was seen: three centuries of uptime."""


class Fault(enum.StrEnum):
    """Whose fault it is that a run did not start."""

    TASK = "task"
    HOST = "host"
    LATE = "late"
    PREDECESSOR = "predecessor_alive"


class KillMode(enum.StrEnum):
    """Who gets the kill signal: all processes of a run, or only the one that was started.

    The grace, and the SIGKILL after it, are the whole tree's in either case.
    """

    TREE = "tree"
    LEADER = "leader"


class RunState(enum.StrEnum):
    """How far a run is, as the executor says."""

    RUNNING = "running"
    LEADER_EXITED = "leader_exited"
    ENDING = "ending"
    UNKILLABLE = "unkillable"
    GONE = "gone"


class EndedBy(enum.StrEnum):
    """Endings that the executor begins by itself. Any other ``ended_by`` is the daemon's reason."""

    ABSENCE = "absence"
    RUN_TIMEOUT = "run_timeout"
    SHUTDOWN = "shutdown"
    SWEPT = "swept"


class Exit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a run's leader ended. Neither code nor signal: nobody saw it (*vanished*)."""

    at: Moment
    """Instant at which it was seen."""
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, msgspec.Meta(ge=1, le=127)] | None = None
    max_rss_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    cpu_seconds: float | None = None
    oom: bool = False
    """A SIGKILL of the kernel's for lack of memory ended the leader, or what it waited for."""
    oom_doubtful: bool = False
    """More runs died of SIGKILL at that moment than the kernel ended so: it may have been one."""
    leftovers: tuple[str, ...] = ()
    """Names of processes that outlived the leader and were ended."""
    left_alone: tuple[str, ...] = ()
    """Processes that outlived the leader and go on, as "name (pid)"."""
    output_truncated: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Bytes of its output that the run itself removed, by truncating the file."""
    tail: str = ""
    """The last bytes of the output, decoded with replacement."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """A line between daemon and executor."""


# From the executor -------------------------------------------------------------------------


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
    """Of the executor's code; empty: older than the question."""
    marks: bool = False
    """Whether the processes of its runs carry their mark."""


class RunReport(Message, frozen=True, tag="run"):
    """One run that the executor knows and was not told to forget; between hello and its end."""

    uid: RunUid
    state: RunState
    pid: Pid | None = None
    start_ticks: Ticks | None = None
    exit: Exit | None = None
    ended_by: str | None = None
    until: float | None = None
    """Instant until which its worker asked to go on, beyond its run time-out."""
    reason: str = ""
    """Why an `unkillable` run is not gone, or who of a run that ends may not be signalled."""


class HelloEnd(Message, frozen=True, tag="hello_end"):
    """Every run was named."""


class Started(Message, frozen=True, tag="started"):
    """The run's leader lives."""

    uid: RunUid
    pid: Pid
    start_ticks: Ticks
    at: Moment
    """Instant of the start."""


class StartFailed(Message, frozen=True, tag="start_failed"):
    """The run has no process and is already forgotten."""

    uid: RunUid
    fault: Fault
    error: str
    """What is wrong, for people: it names the program, directory or file."""
    errno: int | None = None


class Changed(Message, frozen=True, tag="changed"):
    """A run moved, and is not gone."""

    uid: RunUid
    state: RunState
    exit: Exit | None = None
    ended_by: str | None = None
    reason: str = ""
    """Why an `unkillable` run is not gone: who survived SIGKILL, or what cannot be seen. Of any
    other run: who may not be signalled."""


class Exited(Message, frozen=True, tag="exited"):
    """A run's whole process tree is confirmed gone."""

    uid: RunUid
    exit: Exit
    ended_by: str | None = None


class Notice(Message, frozen=True, tag="notice"):
    """What a worker said by systemd's protocol since its last notice; again until it is noted.

    With a hello it comes before the runs are named: what was said before an exit stands before it.
    """

    uid: RunUid
    serial: int
    beat: bool = False
    note: str | None = None
    failed: bool = False
    """It gave itself up."""
    until: float | None = None
    """Instant until which it asks to go on, beyond its run time-out."""


class Stray(Message, frozen=True, tag="stray"):
    """A process that came from one of several runs, nobody can tell which."""

    pid: int
    name: str
    candidates: tuple[RunUid, ...]
    """The last twenty to start, if there are more."""


#: Listening worker sockets that travel with one message.
MAX_LISTENERS = 8


class Door(Message, frozen=True, tag="door"):
    """The sockets that workers speak to were missing: they are there again, or cannot be yet.

    Once they are, the worker socket that listens now travels with this line or one before, and
    behind it those without a name at which workers still wait.
    """

    shut: str = ""
    """Why they cannot be made again; empty: they are there."""


class Pong(Message, frozen=True, tag="pong"):
    """The answer to a ping."""

    sequence: int


# From the daemon ---------------------------------------------------------------------------


class Start(Message, frozen=True, tag="start"):
    """Start a run. Refused when the uid is known, the epoch is old or a deadline has passed."""

    uid: Annotated[RunUid, msgspec.Meta(pattern="^[0-9A-Za-z_-]{1,64}$")]
    epoch: int
    command: tuple[str, ...]
    env: dict[str, str]
    output_path: str
    cwd: str | None = None
    umask: Annotated[int, msgspec.Meta(ge=0, le=0o777)] = 0o077
    output_budget: int | None = None
    """Bytes of the output that are kept, the last ones; None: all."""
    to_journald: bool = False
    """Forward the output to systemd's journal too. An executor that is older than this field does
    not; the file has all of it."""
    payload: str | None = None
    previous_output_path: str | None = None
    earlier_output_paths: tuple[str, ...] = ()
    """Output files of the task's runs on this node, the latest and those before: while one is
    locked, that run may live and this one does not start."""
    kill_signal: Annotated[int, msgspec.Meta(ge=1, le=64)] = 15
    kill_mode: KillMode = KillMode.TREE
    """An executor that is older than this field signals the tree."""
    kill_grace: float = 10.0
    exit_grace: float = 10.0
    leftover_grace: float = 2.0
    report_leftovers: bool = False
    """Name what outlives the leader by that, and leave it alone."""
    deadlines: dict[str, float] = {}
    """Instant at which the executor ends the run by itself, by `EndedBy`."""
    watchdog: float | None = None
    """Seconds within which systemd's protocol asks for a sign of life; None: no socket for it."""
    longest: float | None = None
    """Instant to which the worker itself may move its run time-out; None: it has none."""


class Renew(Message, frozen=True, tag="renew"):
    """Move kill deadlines, of many runs at once; never back."""

    deadlines: dict[RunUid, dict[str, float]]


class End(Message, frozen=True, tag="end"):
    """End a run's whole tree. Again with `at_once`: without the rest of the grace."""

    uid: RunUid
    reason: str
    at_once: bool = False
    longest_grace: float | None = None
    """Seconds of kill grace at most; None: as the run's own says."""


class Noted(Message, frozen=True, tag="noted"):
    """A notice, and those before it, were written down, or refused."""

    uid: RunUid
    serial: int


class Forget(Message, frozen=True, tag="forget"):
    """The run is settled: drop it, unless it still lives."""

    uid: RunUid


class Leave(Message, frozen=True, tag="leave"):
    """Exit as soon as nothing is live or unforgotten."""


class Ping(Message, frozen=True, tag="ping"):
    """Are you there, it asks."""

    sequence: int


FromExecutor = (
    Hello
    | RunReport
    | HelloEnd
    | Started
    | StartFailed
    | Changed
    | Exited
    | Notice
    | Stray
    | Door
    | Pong
)
ToExecutor = Start | Renew | End | Noted | Forget | Leave | Ping

encode = msgspec.json.Encoder().encode
decode_from_executor = msgspec.json.Decoder(FromExecutor).decode
decode_to_executor = msgspec.json.Decoder(ToExecutor).decode


def as_utf8(text: str) -> str:
    """Return a text that a message can carry: the name of a file may be none."""
    return text.encode(errors="backslashreplace").decode()


def unreadable(start: Start) -> str | None:
    """Return why no executor could read this start; None: it can.

    A line that it refuses would end the connection.
    """
    try:
        line = encode(start)
        decode_to_executor(line)
    except UNREADABLE as error:
        return in_words(error)
    if len(line) <= MAX_LINE:
        return None
    return (
        f"command, payload and environment, with what the profile adds, are {len(line)} bytes"
        f" as JSON, more than {MAX_LINE}; pass what is long in a file"
    )
