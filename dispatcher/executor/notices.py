"""systemd's own protocol for workers, sd_notify(3): a socket for each run, and the latest state.

The address is the identity: whoever can send to a run's socket speaks for the run. So senders that
are gone before they are read, shells around the program and containers need no look at any pid. No
room is given for descriptors, so the kernel closes those that are passed, at once: that is what
`systemd-notify` waits for (BARRIER=1).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from dispatcher import wire
from dispatcher.executor.notice_sockets import MOST_BYTES, Directory, named, received
from dispatcher.executor.system.kernel import Kernel
from dispatcher.host.runtime_directory import BoundSocket, Entry
from dispatcher.outbox import merged
from dispatcher.times import NEVER, Instant

#: Messages read of one run in so many seconds. Who sends more waits: its own socket is full then.
READS = 32
WINDOW = 0.05

#: Messages read at once of a run whose leader has exited or whose time is over: what it said stands
#: before its end. More than its socket holds where systemd has set `net.unix.max_dgram_qlen`.
LAST_READS = 1024

#: Seconds between two tellings: what is said meanwhile shares one commit. A lone worker waits for
#: nothing, and no beat for more than an eighth of its lease.
GROUPING = 0.05

#: Sockets of a run that lost their names and are still heard: a program may be connected. One more
#: closes the one that has been silent for longest.
MOST_NAMELESS = 4

_LONG_AGO = Instant(0.0)

#: Digits of a number that is believed.
_MOST_DIGITS = 18


class Peer(Protocol):
    """The daemon, if one is there."""

    @property
    def connected(self) -> bool:
        """Whether it is."""

    def send(self, message: wire.FromExecutor) -> None:
        """Queue a message."""


@dataclass(slots=True, eq=False)
class _Speaker:
    uid: wire.RunUid
    name: BoundSocket
    grouping: float
    nameless: list[socket.socket] = field(default_factory=list)
    """Its sockets of before, whose names somebody removed; last the one that spoke last."""
    open: bool = True
    serial: int = 0
    untold: wire.Notice | None = None
    unnoted: wire.Notice | None = None
    """What was told and not confirmed: told again to the next daemon."""
    window_ends: Instant = _LONG_AGO
    read: int = 0
    """Messages in this window."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Where it may speak."""
        return *self.nameless, self.name.socket

    @property
    def wants_to_tell(self) -> bool:
        """Whether there is news that cannot wait for the daemon's word on the last."""
        return self.untold is not None and (
            self.unnoted is None or self.untold.failed or self.untold.until is not None
        )


class Notices:
    """Hears the runs that have such a socket; each floods nobody but itself."""

    def __init__(self, runtime_dir: str, kernel: Kernel, peer: Peer) -> None:
        """Make the directory of the sockets, and remove those of a dead executor.

        OSError: it cannot be made.
        """
        self._directory = Path(runtime_dir, "notify")
        self._kernel = kernel
        self._peer = peer
        self._speakers: dict[wire.RunUid, _Speaker] = {}
        self._by_descriptor: dict[int, _Speaker] = {}
        self._resting: dict[wire.RunUid, _Speaker] = {}
        self._news: dict[wire.RunUid, _Speaker] = {}
        self._told_at = Instant(0.0)
        Directory(self._directory).make_again()
        for leftover in self._directory.iterdir():
            with suppress(OSError):
                leftover.unlink()

    @property
    def names(self) -> Iterator[Entry]:
        """What it has in the runtime directory."""
        yield Directory(self._directory)
        yield from (speaker.name for speaker in self._speakers.values() if speaker.open)

    @property
    def due(self) -> Instant:
        """When to hear or tell even if nothing happens."""
        due = min((speaker.window_ends for speaker in self._resting.values()), default=NEVER)
        if self._news and self._peer.connected:
            due = min(due, self._tell_at)
        return due

    def open(self, uid: wire.RunUid, watchdog: float) -> dict[str, str]:
        """Make a run's socket; return what its worker finds in its environment. Raises OSError.

        There is no `WATCHDOG_PID`: the program that is to beat may be a child of the one started.
        """
        name = named(str(self._directory / uid))
        try:
            self._kernel.watch(name.socket.fileno())
        except OSError:
            name.socket.close()
            with suppress(OSError):
                Path(name.path).unlink()
            raise
        speaker = _Speaker(uid, name, min(GROUPING, watchdog / 8))
        name.adopt = partial(self._hear_both, speaker)
        self._speakers[uid] = self._by_descriptor[name.socket.fileno()] = speaker
        return {"NOTIFY_SOCKET": name.path, "WATCHDOG_USEC": str(max(1, round(watchdog * 1e6)))}

    def _hear_both(self, speaker: _Speaker, now: socket.socket, before: socket.socket) -> None:
        """Hear a run at its new socket too; a program may be connected to the one before."""
        speaker.nameless.append(before)
        self._by_descriptor[now.fileno()] = speaker
        self._resting[speaker.uid] = speaker  # which ends with all of them watched
        if len(speaker.nameless) > MOST_NAMELESS:
            self._hang_up(speaker.nameless.pop(0))

    def _hang_up(self, one: socket.socket) -> None:
        with suppress(OSError):  # it rests
            self._kernel.ignore(one.fileno())
        del self._by_descriptor[one.fileno()]
        one.close()

    def close(self, uid: wire.RunUid) -> None:
        """Nobody is left who could speak: remove the run's socket. Idempotent."""
        speaker = self._speakers.get(uid)
        if speaker is None or not speaker.open:
            return
        speaker.open = False
        self._resting.pop(uid, None)
        for one in speaker.sockets:
            self._hang_up(one)
        with suppress(OSError):
            Path(speaker.name.path).unlink()

    def forget(self, uid: wire.RunUid) -> None:
        """Drop what a run said: it is settled, or never began."""
        self.close(uid)
        self._speakers.pop(uid, None)
        self._news.pop(uid, None)

    # Hearing ---------------------------------------------------------------------------------

    def hear(self, ready: Iterable[int], at: Instant) -> Iterator[tuple[wire.RunUid, Instant]]:
        """Read what came; yield the runs that ask to go on, and until when."""
        for speaker in [s for s in self._resting.values() if s.window_ends <= at]:
            try:
                for one in speaker.sockets:
                    self._kernel.watch(one.fileno())
            except OSError:  # the host is short of something
                speaker.window_ends = Instant(at + WINDOW)
            else:
                del self._resting[speaker.uid]
        for descriptor in ready:
            if heard := self._by_descriptor.get(descriptor):
                yield from self._read(heard, self._allowed(heard, at), at)
                if heard.read >= READS:
                    self._rest(heard)

    def _rest(self, speaker: _Speaker) -> None:
        """Hear a run no more until its window ends."""
        for one in speaker.sockets:
            with suppress(OSError):  # it rests already
                self._kernel.ignore(one.fileno())
        self._resting[speaker.uid] = speaker

    def hear_last(self, uid: wire.RunUid, at: Instant) -> list[Instant]:
        """Read what a run said before its end is told or begun, and tell it before that.

        Return until when it asked to go on.
        """
        speaker = self._speakers.get(uid)
        if speaker is None or not speaker.open:
            return []
        untils = [until for _, until in self._read(speaker, LAST_READS, at)]
        if speaker.untold is not None and self._peer.connected:
            self._tell(speaker, speaker.untold)
        return untils

    @staticmethod
    def _allowed(speaker: _Speaker, at: Instant) -> int:
        if at >= speaker.window_ends:
            speaker.window_ends, speaker.read = Instant(at + WINDOW), 0
        return READS - speaker.read

    def _read(
        self, speaker: _Speaker, most: int, at: Instant
    ) -> Iterator[tuple[wire.RunUid, Instant]]:
        for one, said in received(speaker.sockets, most):
            speaker.read += 1
            if one in speaker.nameless:
                speaker.nameless.remove(one)
                speaker.nameless.append(one)
            notice = understood(said, speaker.uid, speaker.serial + 1, at)
            if notice is not None:
                speaker.serial += 1
                speaker.untold = merged(speaker.untold, notice)
                if speaker.wants_to_tell:
                    self._news[speaker.uid] = speaker
                if notice.until is not None:
                    yield speaker.uid, Instant(notice.until)

    # Telling ---------------------------------------------------------------------------------

    def greet(self) -> None:
        """Tell a new daemon whatever none has confirmed."""
        for speaker in self._speakers.values():
            if speaker.unnoted is not None:
                speaker.untold = merged(speaker.unnoted, speaker.untold or speaker.unnoted)
                speaker.unnoted = None
        self.tell_all()

    def tell_all(self) -> None:
        """Tell whatever was heard, without waiting for more or for a word on the last."""
        for speaker in self._speakers.values():
            if speaker.untold is not None:
                self._tell(speaker, speaker.untold)

    def tell(self, at: Instant) -> None:
        """Tell the news, if it is time."""
        if self._news and self._peer.connected and at >= self._tell_at:
            self._told_at = at
            for speaker in list(self._news.values()):
                if speaker.untold is not None:
                    self._tell(speaker, speaker.untold)

    def noted(self, uid: wire.RunUid, serial: int) -> None:
        """Drop what a daemon has written down; tell it what came since."""
        speaker = self._speakers.get(uid)
        if speaker is None or speaker.unnoted is None or speaker.unnoted.serial != serial:
            return
        speaker.unnoted = None
        if speaker.untold is not None:
            self._news[uid] = speaker

    @property
    def _tell_at(self) -> Instant:
        grouping = min((speaker.grouping for speaker in self._news.values()), default=0.0)
        return Instant(self._told_at + grouping)

    def _tell(self, speaker: _Speaker, news: wire.Notice) -> None:
        self._news.pop(speaker.uid, None)
        speaker.untold, speaker.unnoted = None, merged(speaker.unnoted, news)
        self._peer.send(news)


def understood(said: bytes, uid: wire.RunUid, serial: int, at: Instant) -> wire.Notice | None:
    """Return what a message says that concerns us; None: nothing, or it is too long."""
    if len(said) > MOST_BYTES:
        return None
    beat = failed = False
    note: str | None = None
    until: float | None = None
    for line in said.split(b"\n"):
        name, _, value = line.partition(b"=")
        match name, value:
            case ((b"WATCHDOG" | b"READY"), b"1"):
                beat = True
            case b"WATCHDOG", b"trigger":
                failed = True
            case b"STATUS", _:
                note = value.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
            case b"EXTEND_TIMEOUT_USEC", _ if value.isdigit() and len(value) <= _MOST_DIGITS:
                until = at + int(value) / 1e6
    if not beat and not failed and note is None and until is None:
        return None
    return wire.Notice(uid=uid, serial=serial, beat=beat, failed=failed, note=note, until=until)
