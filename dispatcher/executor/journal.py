"""What a successor must know: intentions before acting, observations before they are told.

JSON lines, appended without fsync: another boot discards them. No lock, environment or payload.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from dispatcher import wire
from dispatcher.executor.run import Phase, Run
from dispatcher.times import Instant

#: Bytes beyond what the last rewrite left, after which the journal is rewritten.
REWRITE_AFTER = 1024 * 1024

_APPEND = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="header"):
    """The first line: whose processes the others are about."""

    boot_id: str
    pid_namespace: str


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to a run: each line adds to what those before it told."""

    event: Literal["starting", "started", "ending", "leader_exited", "gone", "forgotten", "known"]
    uid: wire.RunUid
    at: float
    output_path: str | None = None
    pid: int | None = None
    start_ticks: int | None = None
    exit: wire.Exit | None = None
    ended_by: str | None = None
    held_until: float | None = None
    marked: bool | None = None


#: What of a line becomes the run's as it stands.
_KEPT = ("output_path", "pid", "start_ticks", "exit", "ended_by", "held_until", "marked")

_decode_header = msgspec.json.Decoder(Header).decode
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
            with Path(self._path).open("rb") as file:
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
        lines = [_encode(self._header), *(_encode(summary(run, at)) for run in runs), b""]
        data = b"\n".join(lines)
        fresh = f"{self._path}.new"
        # Whatever happens: not again before it has grown as much once more.
        self._rewrite_at = self._size + REWRITE_AFTER
        try:
            descriptor = os.open(fresh, _APPEND | os.O_TRUNC, 0o600)
            try:
                _write(descriptor, data)
                Path(fresh).rename(self._path)
            except OSError:
                os.close(descriptor)
                Path(fresh).unlink(missing_ok=True)
                raise
        except OSError as error:
            return error
        self.close()
        self._descriptor = descriptor
        self._size = len(data)
        self._rewrite_at = self._size + REWRITE_AFTER
        return None


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def without_tail(exit_: wire.Exit) -> wire.Exit:
    """Return the exit without the output's end, which the output still has."""
    return msgspec.structs.replace(exit_, tail="") if exit_.tail else exit_


def summary(run: Run, at: Instant) -> Line:
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
    )


def replay(file: Iterable[bytes], header: Header) -> list[Run]:
    """Return the runs that a journal tells of; none when it is of other processes than ours."""
    lines = iter(file)
    try:
        if _decode_header(next(lines, b"")) != header:
            return []
    except msgspec.DecodeError:
        return []
    runs: dict[wire.RunUid, Run] = {}
    last = 0.0
    for text in lines:
        try:
            line = _decode(text)
        except msgspec.DecodeError:
            continue  # torn by the death of its writer
        last = max(last, line.at)
        if line.event == "forgotten":
            runs.pop(line.uid, None)
            continue
        run = runs.setdefault(line.uid, Run(line.uid, output_path=""))
        for name in _KEPT:
            if (value := getattr(line, name)) is not None:
                setattr(run, name, value)
        if line.event == "gone" and run.exit is not None:
            run.gone(run.exit)
    for run in runs.values():
        # It was that executor's own: until its last word it had not reaped the leader.
        run.held_until = last if run.held_until is None else run.held_until
    return list(runs.values())
