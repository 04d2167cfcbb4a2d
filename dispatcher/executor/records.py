"""The lines of the journal as typed records, and the runs that a successor reads from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from dispatcher import wire
from dispatcher.complaints import UNREADABLE

#: Bytes of a line: far more than any has.
MAX_LINE = 64 * 1024


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="header"):
    """The first line: which executor's processes the other lines are about."""

    boot_id: str
    pid_namespace: str
    node_id: str = ""
    """Empty in the journal of an executor that did not write it yet."""

    def matches(self, own: Header) -> bool:
        """Whether the processes of this journal may be those of `own` executor."""
        same = (self.boot_id, self.pid_namespace) == (own.boot_id, own.pid_namespace)
        return same and self.node_id in {"", own.node_id}


class Record(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="event"):
    """A line about one run."""

    uid: Annotated[wire.RunUid, msgspec.Meta(min_length=1, max_length=64)]
    at: wire.Moment


class Identified(Record, frozen=True):
    """What is known of a run before it has a process."""

    output_path: Annotated[str, msgspec.Meta(pattern="^[^\0]*$")] = ""
    marked: bool = False
    """Its processes carry its mark."""
    task_variables: dict[str, str] = msgspec.field(default_factory=dict, name="whose")
    """The variables of its environment that name its task: `worker_api.IDENTITY_VARIABLES`."""
    forwarded: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    """Bytes of its output that were forwarded to systemd's journal, or lost; None: output stays in
    its file."""


class Starting(Identified, frozen=True, tag="starting"):
    """Written before the leader is spawned."""


class LeaderStarted(Record, frozen=True, tag="started"):
    """The leader was spawned."""

    pid: wire.Pid
    start_ticks: wire.Ticks


class Ending(Record, frozen=True, tag="ending"):
    """Written before the first signal."""

    ended_by: str


class LeaderExited(Record, frozen=True, tag="leader_exited"):
    """The leader has exited, and others of its tree live."""

    exit: wire.Exit


class Forwarded(Record, frozen=True, tag="known"):
    """How far a run's output was forwarded; read as an `InheritedRun`."""

    forwarded: int


class InheritedRun(Identified, frozen=True, tag="known"):
    """All that a successor needs to know of a run that may have processes."""

    pid: wire.Pid | None = None
    start_ticks: wire.Ticks | None = None
    exit: wire.Exit | None = None
    ended_by: str | None = None
    held_until: wire.Moment = 0.0
    """The last instant at which its leader was surely not reaped; 0 until the journal is read."""


class Gone(InheritedRun, frozen=True, tag="gone"):
    """A run whose tree is gone; the first such record has only its exit."""


class Forgotten(Record, frozen=True, tag="forgotten"):
    """The daemon has settled the run, or it never began."""


AnyRecord = Starting | LeaderStarted | Ending | LeaderExited | InheritedRun | Gone | Forgotten


class Damage(Struct, frozen=True):
    """The lines of a predecessor's journal that could not be read."""

    lines: int
    first: int
    """The number of the first of them, from 1: the header."""


encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode = msgspec.json.Decoder(AnyRecord).decode


def replay(lines: Iterable[bytes], own: Header) -> tuple[list[InheritedRun], Damage | None]:
    """Return the runs of a journal, none when it is of another boot; and its damage.

    Without the header, the pid namespace is unknown, so the runs have no pids.
    """
    runs: dict[wire.RunUid, InheritedRun] = {}
    last, damaged, first, text = 0.0, 0, 0, b""
    for number, text in enumerate(lines, start=1):
        try:
            if number > 1:
                record = _decode(text)
                _apply(record, runs)
                last = max(last, record.at)
            elif not _decode_header(text).matches(own):
                return [], None
        except UNREADABLE:
            torn = number > 1 and len(text) < MAX_LINE and not text.endswith(b"\n")
            if not torn:  # by the death of its writer
                damaged, first = damaged + 1, first or number
    if not text:
        damaged = first = 1
    found = [*runs.values()]
    if first == 1:
        found = [replace(run, pid=None, start_ticks=None) for run in found]
    # A run without `held_until` was the writer's own, and its leader not reaped until then.
    found = [replace(run, held_until=run.held_until or last) for run in found]
    return found, Damage(damaged, first) if damaged else None


def _apply(record: AnyRecord, runs: dict[wire.RunUid, InheritedRun]) -> None:
    """Add a record to what is known of its run."""
    if isinstance(record, Forgotten):
        runs.pop(record.uid, None)
        return
    run = runs.get(record.uid) or InheritedRun(uid=record.uid, at=record.at)
    match record:
        case Starting():
            run = InheritedRun(**asdict(record))
        case LeaderStarted():
            run = replace(run, pid=record.pid, start_ticks=record.start_ticks)
        case Ending():
            run = replace(run, ended_by=record.ended_by)
        case LeaderExited():
            run = replace(run, exit=record.exit)
        case _ if record.uid not in runs:  # the record of a rewrite
            run = record
        case Gone():
            exit_, ended_by = record.exit or run.exit, record.ended_by or run.ended_by
            run = Gone(**{**asdict(run), "exit": exit_, "ended_by": ended_by})
        case InheritedRun():
            run = replace(run, forwarded=record.forwarded)
    runs[record.uid] = run
