"""The daemon's listening sockets: one JSON object a line each way, bounded in every direction."""

from __future__ import annotations

import errno
import selectors
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec
import structlog

from dispatcher import wire, worker_api
from dispatcher.host import sockets
from dispatcher.times import Instant

log = structlog.get_logger()

#: What keeps us from accepting, whoever it is that waits.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

#: Seconds until it is tried again after a shortage: a socket would tell at every look.
SHORTAGE_PAUSE = 0.5

#: Connections that one user may hold open at a channel; one more closes the idlest.
CONNECTIONS_PER_USER = 256

#: Connections taken in one turn of the loop.
ACCEPTS = 32

#: Connections and lines that may have waited at once: what the executor lets wait at its door.
MOST_WAITING = 4096

#: Seconds from the connection to its first line that makes sense.
FIRST_LINE = 5.0

#: Connections of which the newcomers of a full channel are sure, until their first line comes.
UNPROVED_SEATS = 32

#: Seconds that an answer may wait for a peer that does not read.
UNREAD = 10.0

_TOO_LONG = {
    "ok": False,
    "error": worker_api.WorkerError.INVALID,
    "message": f"the line is longer than {worker_api.MAX_LINE} bytes with its end; write what is"
    " long to a file and name that, over a new connection",
}

Reply = Callable[[object], None]

#: Takes a line, how to reply to it, at once or later, and the pid of who said it; tells whether it
#: makes sense.
Hear = Callable[[bytes, Reply, int], bool]


@dataclass(slots=True)
class _Peer:
    connection: socket.socket
    uid: int
    pid: int
    since: Instant
    heard_at: Instant
    proved: bool = False
    """Whether it has said a line that makes sense."""
    asking: bool = False
    """Whether a line of it waits for the reply."""
    over: bool = False
    """Whether it will say no more; it may still read."""
    watched: int = 0
    """What the selector is to tell of it."""
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)

    @property
    def lines(self) -> bool:
        """Whether a whole line of it has not been heard yet."""
        return b"\n" in self.received

    @property
    def give_up_at(self) -> Instant | None:
        """When to drop it; None while there is no reason."""
        if self.unsent:
            return Instant(self.heard_at + UNREAD)
        return None if self.proved else Instant(self.since + FIRST_LINE)


class Channel:
    """Serves one listening socket on somebody else's selector.

    Whole lines go to `hear`, with a function that sends the reply: of each peer one line at a time,
    and the next only when the last was answered and the answer sent. Nothing is read meanwhile but
    what one line may hold, so that a flood fills the sender's own socket, and everybody is served
    in turn. Peers of other users than `only_uids` are logged and closed; `refusal` is all they get,
    and nothing is read from them.
    """

    def __init__(
        self,
        listener: socket.socket,
        hear: Hear,
        *,
        selector: selectors.BaseSelector,
        only_uids: frozenset[int],
        refusal: bytes = b"",
    ) -> None:
        self._listener = listener
        self._earlier: list[socket.socket] = []
        """Where we listened before, as long as connections may wait there."""
        self._hear_line = hear
        self._selector = selector
        self._only_uids = only_uids
        self._refusal = refusal
        self._peers: dict[int, _Peer] = {}
        self._by_user: Counter[int] = Counter()
        self._waiting: dict[int, _Peer] = {}
        """Those that said more than one line at once, and whose turn it is again."""
        self._deaf_until: Instant | None = None
        self._fresh = 1
        """Connections taken in this turn, whose words are heard in the next; one stands for all
        that came before us."""
        self._in_a_row = 0
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Close every connection and the listening socket."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        if self._deaf_until is None:
            self._selector.unregister(self._listener)
        for listener in (*self._earlier, self._listener):
            listener.close()

    def listen_at(self, listener: socket.socket, *, at: Instant) -> None:
        """Listen at another socket from now on; all stay who are connected, or waited to be."""
        if self._deaf_until is None:
            self._selector.unregister(self._listener)
        self._earlier.append(self._listener)
        self._listener = listener
        listener.setblocking(False)
        if self._deaf_until is None:
            self._listen()
            self._accept_earlier(at)

    def serves(self, uids: frozenset[int]) -> bool:
        """Whether it is for exactly these users."""
        return self._only_uids == uids

    @property
    def deaf(self) -> bool:
        """Whether connections wait that cannot be taken."""
        return self._deaf_until is not None

    def is_behind(self) -> bool:
        """Say, once a turn, whether somebody waits to be heard who may have come before it.

        Whoever does not read its answers waits for itself.
        No more once so many were heard without a pause that whoever waited at first is among them:
        a flood keeps nobody's time from passing.
        """
        speak = sum(peer.lines and not peer.unsent for peer in self._peers.values())
        waiting = self._fresh + speak
        self._fresh = 0
        self._in_a_row = self._in_a_row + waiting if waiting else 0
        return 0 < self._in_a_row <= MOST_WAITING

    def keep_up(self, *, at: Instant) -> Instant | None:
        """Hear who waits, drop who keeps us waiting; return when to look again.

        None: there is nothing to look after.
        """
        if self._deaf_until is not None and at >= self._deaf_until:
            self._deaf_until = None
            self._listen()
        if self._deaf_until is None:
            self._accept_earlier(at)
        waiting, self._waiting = self._waiting, {}
        for peer in waiting.values():
            self._proceed(peer)
        deadlines = [at] if self._waiting or (self._earlier and not self.deaf) else []
        for peer in list(self._peers.values()):
            if (give_up_at := peer.give_up_at) is None:
                continue
            if at >= give_up_at:
                self._drop(peer)
            else:
                deadlines.append(give_up_at)
        deadlines += [] if self._deaf_until is None else [self._deaf_until]
        return min(deadlines, default=None)

    # Peers that come ------------------------------------------------------------------------

    def _listen(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, at: Instant, _: int) -> None:
        self._take(self._listener, at)

    def _accept_earlier(self, at: Instant) -> None:
        """Take some of those who wait where we listened before; close it once nobody does."""
        while self._earlier and self._take(self._earlier[0], at):
            self._earlier.pop(0).close()

    def _take(self, listener: socket.socket, at: Instant) -> bool:
        """Take some connections; return whether none waits any more."""
        for _ in range(ACCEPTS):
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    return True
                self._selector.unregister(self._listener)
                self._deaf_until = Instant(at + SHORTAGE_PAUSE)
                return False
            self._fresh += 1
            with suppress(OSError):  # gone already
                self._welcome(connection, at)
        return False

    def _welcome(self, connection: socket.socket, at: Instant) -> None:
        pid, uid = sockets.credentials(connection)
        if uid not in self._only_uids:
            log.warning("peer.refused", peer_uid=uid, peer_pid=pid, allowed=sorted(self._only_uids))
            with connection:
                connection.send(self._refusal, socket.MSG_DONTWAIT)
            return
        if self._by_user[uid] >= CONNECTIONS_PER_USER:
            self._drop(self._idlest(uid))
        connection.setblocking(False)
        peer = self._peers[connection.fileno()] = _Peer(connection, uid, pid, at, at)
        self._by_user[uid] += 1
        self._watch(peer)

    def _idlest(self, uid: int) -> _Peer:
        """Return whom of a user's to close: who came and said nothing, unless those are few."""
        theirs = [peer for peer in self._peers.values() if peer.uid == uid]
        unproved = [peer for peer in theirs if not peer.proved]
        crowd = unproved if len(unproved) > UNPROVED_SEATS else theirs
        return min(crowd, key=lambda peer: peer.heard_at)

    def _drop(self, peer: _Peer) -> None:
        descriptor = peer.connection.fileno()
        if self._peers.pop(descriptor, None) is not None:
            self._waiting.pop(descriptor, None)
            self._by_user[peer.uid] -= 1
            if peer.watched:
                self._selector.unregister(peer.connection)
            peer.connection.close()

    # What they say, and are told ------------------------------------------------------------

    def _serve(self, peer: _Peer, at: Instant, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                self._receive(peer, at)
            self._send(peer)
        except OSError:
            self._drop(peer)
        else:
            self._proceed(peer)

    def _receive(self, peer: _Peer, at: Instant) -> None:
        with suppress(BlockingIOError, InterruptedError):
            chunk = peer.connection.recv(worker_api.MAX_LINE)
            peer.over = not chunk
            peer.received += chunk
            peer.heard_at = at

    def _send(self, peer: _Peer) -> None:
        if peer.unsent:
            with suppress(BlockingIOError, InterruptedError):
                del peer.unsent[: peer.connection.send(peer.unsent)]

    def _proceed(self, peer: _Peer) -> None:
        """Hear a peer's next line, if it is its turn; see to what comes next."""
        if not peer.asking and not peer.unsent:
            line, newline, rest = peer.received.partition(b"\n")
            if len(line) >= worker_api.MAX_LINE:  # its end is a byte too
                self._answer(peer, _TOO_LONG)  # what fits its empty socket; nothing is kept
                self._drop(peer)
                return
            if peer.over and not newline:
                self._drop(peer)
                return
            if newline:
                peer.received, peer.asking = rest, True
                reply = partial(self._answer, peer)
                peer.proved |= self._hear_line(bytes(line), reply, peer.pid)
        self._look_after(peer)

    def _answer(self, peer: _Peer, reply: object) -> None:
        """Send a reply, unless its peer has gone meanwhile."""
        if peer.connection.fileno() < 0:
            return
        peer.asking = False
        peer.unsent += wire.encode(reply) + b"\n"
        try:
            self._send(peer)
        except OSError:
            self._drop(peer)
        else:
            self._look_after(peer)

    def _look_after(self, peer: _Peer) -> None:
        """See that we are told of what a peer does next, or that it has its next turn."""
        if peer.connection.fileno() < 0:
            return
        if (peer.lines or peer.over) and not peer.asking and not peer.unsent:
            self._waiting[peer.connection.fileno()] = peer
        self._watch(peer)

    def _watch(self, peer: _Peer) -> None:
        wanted = 0 if peer.lines or peer.over else selectors.EVENT_READ
        wanted |= selectors.EVENT_WRITE if peer.unsent else 0
        if wanted == peer.watched:
            return
        if not wanted:
            self._selector.unregister(peer.connection)
        elif peer.watched:
            self._selector.modify(peer.connection, wanted, partial(self._serve, peer))
        else:
            self._selector.register(peer.connection, wanted, partial(self._serve, peer))
        peer.watched = wanted


class ControlRequest(msgspec.Struct):
    """What the command line asks of a running daemon."""

    op: str
