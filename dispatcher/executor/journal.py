"""What a successor must know: intentions before acting, observations before they are told.

JSON lines, appended without fsync: another boot discards them. No lock, environment or payload.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from dispatcher import wire
from dispatcher.executor.run import Phase, Run
from dispatcher.times import Instant

#: Bytes beyond what the last rewrite left, after which the journal is rewritten.
REWRITE_AFTER = 1024 * 1024

_APPEND = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """One line of the journal."""


class Header(_Line, frozen=True, tag="header"):
    """Whose processes the lines are about."""

    boot_id: str
    pid_namespace: str


class Starting(_Line, frozen=True, tag="starting"):
    """A run is about to be started: it may have a process from here on."""

    uid: wire.RunUid
    output_path: str
    at: float
    held_until: float | None = None


class Started(_Line, frozen=True, tag="started"):
    """Its leader lives."""

    uid: wire.RunUid
    pid: int
    start_ticks: int
    at: float


class Ending(_Line, frozen=True, tag="ending"):
    """It is being ended, and why."""

    uid: wire.RunUid
    ended_by: str
    at: float


class LeaderExited(_Line, frozen=True, tag="leader_exited"):
    """Its leader ended; others of its tree may live."""

    uid: wire.RunUid
    exit: wire.Exit


class Gone(_Line, frozen=True, tag="gone"):
    """Nothing of it is left."""

    uid: wire.RunUid
    exit: wire.Exit
    ended_by: str | None = None


class Forgotten(_Line, frozen=True, tag="forgotten"):
    """The daemon has settled it, or it never had a process."""

    uid: wire.RunUid


Line = Header | Starting | Started | Ending | LeaderExited | Gone | Forgotten

_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode


class Journal:
    """Collects lines during a tick and writes them in one piece."""

    def __init__(self, path: str, header: Header) -> None:
        self._path = path
        self._header = header
        self._descriptor: int | None = None
        self._lines: list[bytes] = []
        self._size = 0
        self._rewrite_at = 0

    def close(self) -> None:
        """Give the descriptor back; what was not flushed is lost."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def predecessors_runs(self) -> list[Run]:
        """Return the runs of the last executor of this boot and pid namespace."""
        try:
            with open(self._path, "rb") as file:
                return replay(file, self._header)
        except FileNotFoundError:
            return []

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
            return OSError(errno.EIO, "the journal could not be made")
        try:
            _write(self._descriptor, data)
        except OSError as error:
            # Half a line would swallow the next one.
            with suppress(OSError):
                os.truncate(self._descriptor, self._size)
            self._rewrite_at = -1
            return error
        self._size += len(data)
        return None

    def wants_rewrite(self) -> bool:
        """Say whether the journal has grown enough to be compacted, or lacks something."""
        return self._descriptor is None or self._size > self._rewrite_at

    def rewrite(self, runs: Iterable[Run], at: Instant) -> OSError | None:
        """Replace the journal by what it takes to know these runs; return why it could not be."""
        lines = [
            _encode(self._header),
            *(_encode(line) for run in runs for line in lines_of(run, at)),
        ]
        fresh = f"{self._path}.new"
        # Whatever happens: not again before it has grown as much once more.
        self._rewrite_at = self._size + REWRITE_AFTER
        try:
            descriptor = os.open(fresh, _APPEND | os.O_TRUNC, 0o600)
            try:
                _write(descriptor, b"\n".join(lines) + b"\n")
                os.rename(fresh, self._path)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            return error
        self.close()
        self._descriptor = descriptor
        self._size = sum(map(len, lines)) + len(lines)
        self._rewrite_at = self._size + REWRITE_AFTER
        return None


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def lines_of(run: Run, at: Instant) -> Iterable[Line]:
    """Yield the shortest lines from which `replay` makes this run again."""
    yield Starting(uid=run.uid, output_path=run.output_path, at=at, held_until=run.held_until)
    if run.pid is not None and run.start_ticks is not None:
        yield Started(uid=run.uid, pid=run.pid, start_ticks=run.start_ticks, at=at)
    if run.phase is Phase.GONE and run.exit is not None:
        yield Gone(uid=run.uid, exit=without_tail(run.exit), ended_by=run.ended_by)
        return
    if run.ended_by is not None:
        yield Ending(uid=run.uid, ended_by=run.ended_by, at=at)
    if run.exit is not None:
        yield LeaderExited(uid=run.uid, exit=run.exit)


def without_tail(exit_: wire.Exit) -> wire.Exit:
    """Return the exit without the output's end, which the output still has."""
    return msgspec.structs.replace(exit_, tail="") if exit_.tail else exit_


def replay(file: Iterable[bytes], header: Header) -> list[Run]:
    """Return the runs that a journal tells of; none when it is of other processes than ours."""
    runs: dict[str, Run] = {}
    last = 0.0
    for number, text in enumerate(file):
        try:
            line = _decode(text)
        except msgspec.DecodeError:
            line = None  # torn by the death of its writer
        if number == 0 and line != header:
            return []
        match line:
            case Starting():
                runs[line.uid] = Run(line.uid, line.output_path, held_until=line.held_until)
            case Forgotten():
                runs.pop(line.uid, None)
            case Started() | Ending() | LeaderExited() | Gone() if line.uid in runs:
                _apply(runs[line.uid], line)
        last = max(last, getattr(line, "at", 0.0))
    for run in runs.values():
        # It was that executor's own: until its last word it had not reaped the leader.
        run.held_until = last if run.held_until is None else run.held_until
    return list(runs.values())


def _apply(run: Run, line: Started | Ending | LeaderExited | Gone) -> None:
    match line:
        case Started():
            run.pid, run.start_ticks = line.pid, line.start_ticks
        case Ending():
            run.ended_by = line.ended_by
        case LeaderExited():
            run.exit = line.exit
        case Gone():
            run.ended_by = line.ended_by
            run.gone(line.exit)
