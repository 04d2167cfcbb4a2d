"""The daemon's listening sockets: one JSON object a line each way, bounded in every direction."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from dispatcher import wire
from dispatcher.times import Instant

#: What keeps us from accepting, whoever it is that waits.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

#: Seconds until it is tried again after a shortage: a socket would tell at every look.
SHORTAGE_PAUSE = 0.5

#: Connections that one user may hold open at a channel.
CONNECTIONS_PER_USER = 256

#: Seconds from the connection to its first whole line.
FIRST_LINE = 5.0

#: Bytes of answers that wait for a peer that does not read; beyond, it is dropped.
MAX_UNSENT = 256 * 1024

_CREDENTIALS = struct.Struct("3i")

Reply = Callable[[object], None]

#: Takes a line and how to reply to it: at once, or later.
Hear = Callable[[bytes, Reply], None]


@dataclass(slots=True)
class _Peer:
    connection: socket.socket
    uid: int
    since: Instant
    heard: bool = False
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)


class Channel:
    """Serves one listening socket on somebody else's selector.

    Each whole line goes to `hear`, with a function that sends the reply. Peers of other users than
    `only_uids` (None: anybody) are closed unheard.
    """

    def __init__(
        self,
        listener: socket.socket,
        hear: Hear,
        *,
        selector: selectors.BaseSelector,
        only_uids: frozenset[int] | None,
    ) -> None:
        self._listener = listener
        self._hear_line = hear
        self._selector = selector
        self._only_uids = only_uids
        self._peers: dict[int, _Peer] = {}
        self._by_user: Counter[int] = Counter()
        self._deaf_until: Instant | None = None
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Close every connection and the listening socket."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        if self._deaf_until is None:
            self._selector.unregister(self._listener)
        self._listener.close()

    def keep_up(self, *, at: Instant) -> Instant | None:
        """Drop who said nothing in time, listen again after a shortage; return when to look again.

        None: there is nothing to look after.
        """
        if self._deaf_until is not None and at >= self._deaf_until:
            self._deaf_until = None
            self._listen()
        waiting = [peer for peer in self._peers.values() if not peer.heard]
        for peer in waiting:
            if at - peer.since > FIRST_LINE:
                self._drop(peer)
        deadlines = [Instant(peer.since + FIRST_LINE) for peer in waiting]
        deadlines += [] if self._deaf_until is None else [self._deaf_until]
        return min(deadlines, default=None)

    def _listen(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, at: Instant, _: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in SHORTAGES:
                self._selector.unregister(self._listener)
                self._deaf_until = Instant(at + SHORTAGE_PAUSE)
            return
        with suppress(OSError):  # gone already
            credentials = connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            uid = _CREDENTIALS.unpack(credentials)[1]
            known = self._only_uids is None or uid in self._only_uids
            if not known or self._by_user[uid] >= CONNECTIONS_PER_USER:
                connection.close()
                return
            connection.setblocking(False)
            peer = self._peers[connection.fileno()] = _Peer(connection, uid, at)
            self._by_user[uid] += 1
            self._selector.register(
                connection,
                selectors.EVENT_READ,
                lambda at, mask: self._serve(peer, at, mask),
            )

    def _serve(self, peer: _Peer, at: Instant, mask: int) -> None:
        del at
        try:
            if mask & selectors.EVENT_READ:
                self._hear(peer)
            self._reply(peer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(peer)

    def _hear(self, peer: _Peer) -> None:
        chunk = peer.connection.recv(wire.MAX_WORKER_LINE)
        if not chunk:
            raise ConnectionResetError
        peer.received += chunk
        *lines, rest = bytes(peer.received).split(b"\n")
        if len(rest) > wire.MAX_WORKER_LINE or len(peer.unsent) > MAX_UNSENT:
            raise ConnectionResetError
        peer.received = bytearray(rest)
        for line in lines:
            peer.heard = True
            self._hear_line(line, partial(self._answer, peer))

    def _answer(self, peer: _Peer, reply: object) -> None:
        """Send a reply, unless its peer has gone meanwhile."""
        if peer.connection.fileno() >= 0:
            peer.unsent += wire.encode(reply) + b"\n"
            try:
                self._reply(peer)
            except OSError:
                self._drop(peer)

    def _reply(self, peer: _Peer) -> None:
        if peer.unsent:
            with suppress(BlockingIOError):
                del peer.unsent[: peer.connection.send(peer.unsent)]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        key = self._selector.get_key(peer.connection)
        if key.events != wanted:
            self._selector.modify(peer.connection, wanted, key.data)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.connection.fileno(), None) is not None:
            self._by_user[peer.uid] -= 1
            self._selector.unregister(peer.connection)
            peer.connection.close()


class ControlRequest(msgspec.Struct):
    """What the command line asks of a running daemon."""

    op: str


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at a path, for this user only; replaces what is there.

    Safe only under the lock of the state directory.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(FileNotFoundError):
        path.unlink()
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener
