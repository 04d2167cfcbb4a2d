"""What a successor must know: intentions before acting, observations before they are told.

JSON lines, appended without fsync: another boot discards them. No lock, environment or payload.
So they need no disk: they are kept in the runtime directory where that is another filesystem, in
memory as a rule, and the name in the state directory is a link. A disk that hangs then holds up no
exit, no kill and no sign of life.

What a successor cannot read costs that line and no more: it is counted, and the rest holds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec

from dispatcher import wire
from dispatcher.complaints import UNREADABLE
from dispatcher.errors import ConfigError
from dispatcher.executor.run import Phase, TrackedRun
from dispatcher.times import NEVER, Instant

#: Bytes beyond what the last rewrite left, after which the journal is rewritten.
REWRITE_AFTER = 1024 * 1024

#: Seconds until a rewrite that failed is tried again: after a full disk a successor must soon be
#: able to know what could not be noted.
RETRY = 1.0

#: Bytes of a line, and of a whole journal: far more than any has, so that damage is soon read.
MOST_OF_LINE = 64 * 1024
MOST = 64 * 1024 * 1024

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="header"):
    """The first line: whose processes the others are about."""

    boot_id: str
    pid_namespace: str
    node_id: str = ""
    """Empty: of an executor that did not write it yet."""

    def is_of(self, other: Header) -> bool:
        """Whether the processes of a journal may be those of another one's executor."""
        same = (self.boot_id, self.pid_namespace) == (other.boot_id, other.pid_namespace)
        return same and self.node_id in {"", other.node_id}


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to a run: each line adds to what those before it told."""

    event: Literal["starting", "started", "ending", "leader_exited", "gone", "forgotten", "known"]
    uid: Annotated[wire.RunUid, msgspec.Meta(min_length=1, max_length=64)]
    at: wire.Moment
    output_path: Annotated[str, msgspec.Meta(pattern="^[^\0]*$")] | None = None
    pid: wire.Pid | None = None
    start_ticks: wire.Ticks | None = None
    exit: wire.Exit | None = None
    ended_by: str | None = None
    held_until: wire.Moment | None = None
    marked: bool | None = None
    whose: dict[str, str] | None = None
    forwarded: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """What of a predecessor's journal could not be read."""

    lines: int
    first: int
    """The number of the first of them, from 1: the header."""


#: What of a line becomes the run's as it stands.
_KEPT = (
    *("output_path", "pid", "start_ticks", "exit", "ended_by", "held_until", "marked"),
    *("whose", "forwarded"),
)

_decode_header = msgspec.json.Decoder(Header).decode
_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode


class Journal:
    """Collects lines during a tick and writes them in one piece."""

    def __init__(self, path: str, header: Header, *, kept_at: str | None = None) -> None:
        """`path` is where a successor looks; `kept_at` where the lines are, if not there."""
        self.path = path
        self._kept_at = kept_at or path
        self._found_there = kept_at is None
        """Whether a successor would find it."""
        self.damage: Damage | None = None
        """What of the predecessor's could not be read."""
        self._header = header
        self._descriptor: int | None = None
        self._lines: list[bytes] = []
        self._size = 0
        self._rewrite_at = 0
        self._behind = False
        """Whether something could not be noted."""
        self._retry_at = Instant(0.0)
        self._unmade = OSError(errno.EIO, "it could not be made")

    def close(self) -> None:
        """Give the descriptor back; what was not flushed is lost."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def predecessors_runs(self) -> list[TrackedRun]:
        """Return what can be known of the runs of the last executor of this boot and pid namespace.

        `damage` says what cannot. Without the header nobody knows in which namespace their pids
        were, so they have none. Raises `ConfigError`, which names a file that cannot be read.
        """
        try:
            with opened(self.path) as file:
                runs, self.damage = replay(_lines(file), self._header)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _refused(self.path, f"cannot be read: {error.strerror}") from error
        return runs

    def note(self, line: Line) -> None:
        """Have a line written with the next flush."""
        self._lines.append(_encode(line))

    def flush(self) -> OSError | None:
        """Write what was noted, wholly or not at all; return why it was not."""
        if not self._lines:
            return None
        data = b"\n".join(self._lines) + b"\n"
        self._lines.clear()
        if self._descriptor is None:
            return self._unmade
        try:
            _write(self._descriptor, data)
        except OSError as error:
            # Half a line would swallow the next one.
            with suppress(OSError):
                os.truncate(self._descriptor, self._size)
            self._behind = True
            return error
        self._size += len(data)
        return None

    @property
    def due(self) -> Instant:
        """When to rewrite: it has grown enough to be compacted, or it lacks something."""
        wanted = self._descriptor is None or self._behind or self._size > self._rewrite_at
        return self._retry_at if wanted else NEVER

    @property
    def is_there(self) -> bool:
        """Whether a successor would find what is written: with its directory it may be removed."""
        if self._descriptor is None or self._kept_at == self.path:
            return True
        with suppress(OSError):  # through the link, if it is one
            return os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        return False

    def make_again(self) -> None:
        """Have it rewritten at once."""
        self._behind, self._retry_at = True, Instant(0.0)

    def rewrite(self, runs: Iterable[TrackedRun], at: Instant) -> OSError | None:
        """Replace the journal by what it takes to know these runs; return why it could not be."""
        lines = [_encode(self._header), *(_encode(summary(run, at)) for run in runs), b""]
        data = b"\n".join(lines)
        self._retry_at = Instant(at + RETRY)
        try:
            try:
                descriptor = self._written_anew(self._kept_at, data)
            except (FileNotFoundError, NotADirectoryError):  # its directory was removed
                descriptor = self._written_anew(self.path, data)
        except OSError as error:
            told = f"it could not be made: {error.strerror}"
            self._unmade = OSError(error.errno, told, error.filename)
            return error
        self.close()
        self._descriptor = descriptor
        self._size = len(data)
        self._rewrite_at = self._size + REWRITE_AFTER
        self._behind, self._retry_at = False, at
        return None

    def _written_anew(self, place: str, data: bytes) -> int:
        """Return the descriptor of a journal that a successor finds at a place. Raises OSError."""
        fresh = f"{place}.new"
        Path(fresh).unlink(missing_ok=True)
        descriptor = os.open(fresh, _NEW, 0o600)
        try:
            _write(descriptor, data)
            Path(fresh).rename(place)
            if place == self.path:  # in the place of a link
                self._found_there = self._kept_at == self.path
            else:
                self._link()
        except OSError:
            os.close(descriptor)
            Path(fresh).unlink(missing_ok=True)
            raise
        return descriptor

    def _link(self) -> None:
        """Let a successor find it, once: later rewrites need no disk of the state directory."""
        if not self._found_there:
            draft = Path(f"{self.path}.link")
            draft.unlink(missing_ok=True)
            draft.symlink_to(self._kept_at)
            draft.rename(self.path)
            self._found_there = True


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def without_tail(exit_: wire.Exit) -> wire.Exit:
    """Return the exit without the output's end, which the output still has."""
    return msgspec.structs.replace(exit_, tail="") if exit_.tail else exit_


def summary(run: TrackedRun, at: Instant) -> Line:
    """Return the one line from which `replay` makes this run again."""
    return Line(
        event="gone" if run.phase is Phase.GONE else "known",
        uid=run.uid,
        at=at,
        output_path=run.output_path,
        pid=run.pid,
        start_ticks=run.start_ticks,
        exit=without_tail(run.exit) if run.exit else None,
        ended_by=run.ended_by,
        held_until=run.held_until,
        marked=run.marked or None,
        whose=dict(run.whose) or None,
        forwarded=run.forwarded,
    )


def opened(path: str) -> BinaryIO:
    """Open a journal to be read, and nothing that would keep us waiting.

    Raises `ConfigError`, which names the file and the remedy, and FileNotFoundError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= MOST:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise _refused(path, f"has {found.st_size} bytes, more than any journal")
    raise _refused(path, "is no regular file")


def _refused(path: str, wrong: str) -> ConfigError:
    remedy = "let the executor's user read it or, when none of its runs lives, move it away"
    return ConfigError(f"the journal {path} {wrong}; {remedy}")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield each line; of one that is longer than any, its beginning."""
    while line := file.readline(MOST_OF_LINE):
        rest = line
        while len(rest) == MOST_OF_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MOST_OF_LINE)
        yield line


def replay(lines: Iterable[bytes], header: Header) -> tuple[list[TrackedRun], Damage | None]:
    """Return the runs that a journal tells of, none when it is of another boot; and its damage."""
    runs: dict[wire.RunUid, TrackedRun] = {}
    last, damaged, first, text = 0.0, 0, 0, b""
    for number, text in enumerate(lines, start=1):
        try:
            if number > 1:
                last = max(last, _apply(_decode(text), runs))
            elif not _decode_header(text).is_of(header):
                return [], None
        except UNREADABLE:
            torn = number > 1 and len(text) < MOST_OF_LINE and not text.endswith(b"\n")
            if not torn:  # by the death of its writer
                damaged, first = damaged + 1, first or number
    if not text:
        damaged = first = 1
    for run in runs.values():
        if first == 1:
            run.pid = run.start_ticks = None
        # It was that executor's own: until its last word it had not reaped the leader.
        run.held_until = last if run.held_until is None else run.held_until
    return list(runs.values()), Damage(damaged, first) if damaged else None


def _apply(line: Line, runs: dict[wire.RunUid, TrackedRun]) -> Instant:
    """Add to the runs what a line tells; return when it was written."""
    at = Instant(line.at)
    if line.event == "forgotten":
        runs.pop(line.uid, None)
        return at
    run = runs.setdefault(line.uid, TrackedRun(line.uid, output_path=""))
    for name in _KEPT:
        if (value := getattr(line, name)) is not None:
            setattr(run, name, value)
    if line.event == "gone" and run.exit is not None:
        run.gone(run.exit)
    return at
