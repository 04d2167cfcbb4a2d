"""systemd's own protocol for workers, sd_notify(3): a socket for each run, and the latest state.

The address is the identity: a sender that can reach a run's socket speaks for the run. So senders
that are gone before they are read, shells around the program and containers need no look at any
pid. No room is given for descriptors, so the kernel closes passed ones at once: that is what
`systemd-notify` waits for (BARRIER=1).
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dispatcher import wire
from dispatcher.executor.notice_sockets import Directory, named, parsed, received
from dispatcher.executor.server import Server
from dispatcher.executor.system.kernel import Kernel
from dispatcher.host.runtime_directory import BoundSocket, Entry
from dispatcher.outbox import merged
from dispatcher.times import LONG_AGO, NEVER, Instant

#: Messages read of one run in so many seconds. A sender of more waits: its own socket is full then.
READS = 32
WINDOW = 0.05

#: Messages read at once of a run whose leader has exited or whose time is over: they count before
#: its end. More than its socket holds where systemd has set `net.unix.max_dgram_qlen`.
LAST_READS = 1024

#: Seconds between two sendings: the messages in between share one commit. A lone worker waits for
#: nothing, and no heartbeat for more than an eighth of its lease.
GROUPING = 0.05

#: Sockets of a run that lost their names and are still read: a program may be connected. One more
#: closes the one that has been silent for longest.
MOST_NAMELESS = 4


@dataclass(slots=True, eq=False)
class RunChannel:
    """The sockets of one run, and what was read from them."""

    uid: wire.RunUid
    name: BoundSocket
    grouping: float
    nameless: list[socket.socket] = field(default_factory=list)
    """Its earlier sockets, whose names were removed; the one used last is the last."""
    open: bool = True
    serial: int = 0
    unsent: wire.Notice | None = None
    unconfirmed: wire.Notice | None = None
    """The notice sent and not acknowledged: sent again to the next daemon."""
    window_ends: Instant = LONG_AGO
    read: int = 0
    """Messages in this window."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """All sockets that its worker may send to."""
        return *self.nameless, self.name.socket

    @property
    def is_urgent(self) -> bool:
        """Whether there is news that cannot wait until the last is confirmed."""
        return self.unsent is not None and (
            self.unconfirmed is None or self.unsent.failed or self.unsent.until is not None
        )


class Notices:
    """Reads the sockets of all runs that have one; a flood delays nobody but its own run."""

    def __init__(self, runtime_dir: str, kernel: Kernel, server: Server) -> None:
        """Make the directory of the sockets, and remove those of a dead executor.

        OSError: it cannot be made.
        """
        self._directory = Path(runtime_dir, "notify")
        self._kernel = kernel
        self._server = server
        self._channels: dict[wire.RunUid, RunChannel] = {}
        self._by_descriptor: dict[int, RunChannel] = {}
        self._unwatched: dict[wire.RunUid, RunChannel] = {}
        self._news: dict[wire.RunUid, RunChannel] = {}
        self._sent_at = LONG_AGO
        Directory(self._directory).restore()
        for leftover in self._directory.iterdir():
            with suppress(OSError):
                leftover.unlink()

    @property
    def names(self) -> Iterator[Entry]:
        """Its entries in the runtime directory."""
        yield Directory(self._directory)
        yield from (channel.name for channel in self._channels.values() if channel.open)

    @property
    def due(self) -> Instant:
        """When to read or send even if nothing happens."""
        due = min((channel.window_ends for channel in self._unwatched.values()), default=NEVER)
        if self._news and self._server.connected:
            due = min(due, self._send_at)
        return due

    def open(self, uid: wire.RunUid, watchdog: float) -> dict[str, str]:
        """Make a run's socket; return the variables that its worker needs. Raises OSError.

        There is no `WATCHDOG_PID`: the program that sends heartbeats may be a child of the leader.
        """
        name = named(str(self._directory / uid))
        try:
            self._kernel.watch(name.socket.fileno())
        except OSError:
            name.socket.close()
            with suppress(OSError):
                Path(name.path).unlink()
            raise
        channel = RunChannel(uid, name, min(GROUPING, watchdog / 8))
        name.adopt = partial(self._add_socket, channel)
        self._channels[uid] = self._by_descriptor[name.socket.fileno()] = channel
        return {"NOTIFY_SOCKET": name.path, "WATCHDOG_USEC": str(max(1, round(watchdog * 1e6)))}

    def _add_socket(self, channel: RunChannel, now: socket.socket, before: socket.socket) -> None:
        """Read a run's new socket too; a program may be connected to the one before."""
        channel.nameless.append(before)
        self._by_descriptor[now.fileno()] = channel
        self._unwatched[channel.uid] = (
            channel  # until its window ends: then all of them are watched
        )
        if len(channel.nameless) > MOST_NAMELESS:
            self._close_socket(channel.nameless.pop(0))

    def _close_socket(self, one: socket.socket) -> None:
        with suppress(OSError):  # it is not watched
            self._kernel.ignore(one.fileno())
        del self._by_descriptor[one.fileno()]
        one.close()

    def close(self, uid: wire.RunUid) -> None:
        """Remove the socket of a run that is gone. Idempotent."""
        channel = self._channels.get(uid)
        if channel is None or not channel.open:
            return
        channel.open = False
        self._unwatched.pop(uid, None)
        for one in channel.sockets:
            self._close_socket(one)
        with suppress(OSError):
            Path(channel.name.path).unlink()

    def forget(self, uid: wire.RunUid) -> None:
        """Drop the notices of a run that is settled, or never began."""
        self.close(uid)
        self._channels.pop(uid, None)
        self._news.pop(uid, None)

    def receive(self, ready: Iterable[int], at: Instant) -> Iterator[tuple[wire.RunUid, Instant]]:
        """Read what came; yield the runs that request more time, and until when."""
        for channel in [c for c in self._unwatched.values() if c.window_ends <= at]:
            try:
                for one in channel.sockets:
                    self._kernel.watch(one.fileno())
            except OSError:  # the host is short of something
                channel.window_ends = Instant(at + WINDOW)
            else:
                del self._unwatched[channel.uid]
        for descriptor in ready:
            if found := self._by_descriptor.get(descriptor):
                yield from self._read(found, self._allowed(found, at), at)
                if found.read >= READS:
                    self._unwatch(found)

    def _unwatch(self, channel: RunChannel) -> None:
        """Read a run no more until its window ends."""
        for one in channel.sockets:
            with suppress(OSError):  # it is not watched already
                self._kernel.ignore(one.fileno())
        self._unwatched[channel.uid] = channel

    def read_rest(self, uid: wire.RunUid, at: Instant) -> list[Instant]:
        """Read and send what a run wrote before its end is reported or begun.

        Return the instants until which it requested more time.
        """
        channel = self._channels.get(uid)
        if channel is None or not channel.open:
            return []
        untils = [until for _, until in self._read(channel, LAST_READS, at)]
        if channel.unsent is not None and self._server.connected:
            self._send(channel, channel.unsent)
        return untils

    @staticmethod
    def _allowed(channel: RunChannel, at: Instant) -> int:
        if at >= channel.window_ends:
            channel.window_ends, channel.read = Instant(at + WINDOW), 0
        return READS - channel.read

    def _read(
        self, channel: RunChannel, most: int, at: Instant
    ) -> Iterator[tuple[wire.RunUid, Instant]]:
        for one, message in received(channel.sockets, most):
            channel.read += 1
            if one in channel.nameless:
                channel.nameless.remove(one)
                channel.nameless.append(one)
            notice = parsed(message, channel.uid, channel.serial + 1, at)
            if notice is not None:
                channel.serial += 1
                channel.unsent = merged(channel.unsent, notice)
                if channel.is_urgent:
                    self._news[channel.uid] = channel
                if notice.until is not None:
                    yield channel.uid, Instant(notice.until)

    def resend_unconfirmed(self) -> None:
        """Send a new daemon everything that none has confirmed."""
        for channel in self._channels.values():
            if channel.unconfirmed is not None:
                channel.unsent = merged(channel.unconfirmed, channel.unsent or channel.unconfirmed)
                channel.unconfirmed = None
        self.send_all()

    def send_all(self) -> None:
        """Send everything that was read, without waiting for more or for a confirmation."""
        for channel in self._channels.values():
            if channel.unsent is not None:
                self._send(channel, channel.unsent)

    def send_due(self, at: Instant) -> None:
        """Send the news, if it is time."""
        if self._news and self._server.connected and at >= self._send_at:
            self._sent_at = at
            for channel in list(self._news.values()):
                if channel.unsent is not None:
                    self._send(channel, channel.unsent)

    def confirm(self, uid: wire.RunUid, serial: int) -> None:
        """Drop what the daemon has committed; what came since becomes news."""
        channel = self._channels.get(uid)
        if channel is None or channel.unconfirmed is None or channel.unconfirmed.serial != serial:
            return
        channel.unconfirmed = None
        if channel.unsent is not None:
            self._news[uid] = channel

    @property
    def _send_at(self) -> Instant:
        grouping = min((channel.grouping for channel in self._news.values()), default=0.0)
        return Instant(self._sent_at + grouping)

    def _send(self, channel: RunChannel, news: wire.Notice) -> None:
        self._news.pop(channel.uid, None)
        channel.unsent, channel.unconfirmed = None, merged(channel.unconfirmed, news)
        self._server.send(news)
