"""A listening socket of the daemon: one JSON object a line each way, bounded in every direction."""

import errno
import selectors
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from dispatcher import wire, worker_api
from dispatcher.daemon.peer import LineTooLong, Owner, Peer
from dispatcher.host import marks, sockets
from dispatcher.times import Instant

log = structlog.get_logger()

#: Errors of accept(2) that are the host's shortage, whichever peer waits.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

#: Seconds until the next try after a shortage: the socket stays readable meanwhile.
SHORTAGE_DELAY = 0.5

#: Connections that may be open at a channel, unless it is given another number; one more closes the
#: idlest of the run that has most.
CONNECTIONS = 256

#: Connections accepted in one turn of the loop.
ACCEPTS = 32

#: Connections and lines that can wait at once: the backlog of the executor's worker socket.
MOST_WAITING = 4096

#: Seats of a full channel that newcomers keep until their first line comes.
UNPROVED_SEATS = 32

_TOO_LONG = {
    "ok": False,
    "error": worker_api.WorkerError.INVALID,
    "message": f"the line is longer than {worker_api.MAX_LINE} bytes with its end; write what is"
    " long to a file and name that, over a new connection",
}

Reply = Callable[[object], None]

#: Handles a line: receives it, the function that replies to it, at once or later, and the pid of
#: its sender; returns whether the line is valid.
Handler = Callable[[bytes, Reply, int], bool]


class Channel:
    """Serves one listening socket on its owner's selector.

    Each peer has one line handled at a time, and the next one once the answer was sent. Meanwhile
    no more than one line's length is read from it, so that a flood fills its sender's own socket
    and all peers are served in turn. Peers of users outside `only_uids` are logged, receive
    `refusal` and are closed; nothing is read from them.
    """

    def __init__(
        self,
        listener: socket.socket,
        handle: Handler,
        *,
        selector: selectors.BaseSelector,
        only_uids: frozenset[int],
        refusal: bytes = b"",
        capacity: Callable[[], int] = lambda: CONNECTIONS,
    ) -> None:
        """`capacity` returns how many connections may be open now."""
        self._listener = listener
        self._former: list[socket.socket] = []
        """Replaced listeners at which connections may still wait."""
        self._handle = handle
        self._selector = selector
        self._only_uids = only_uids
        self._refusal = refusal
        self._capacity = capacity
        self._peers: dict[int, Peer] = {}
        self._by_owner: Counter[Owner] = Counter()
        self._ready: dict[int, Peer] = {}
        """Peers with another line to handle in the next turn."""
        self._resume_at: Instant | None = None
        """When to accept again after a shortage."""
        self._accepted = 1
        """Connections of this turn, read in the next; at first one for all that came before us."""
        self._handled_in_a_row = 0
        listener.setblocking(False)
        self._watch_listener()

    def close(self) -> None:
        for peer in list(self._peers.values()):
            self._drop(peer)
        if self._resume_at is None:
            self._selector.unregister(self._listener)
        for listener in (*self._former, self._listener):
            listener.close()

    def listen_at(self, listener: socket.socket, *, at: Instant) -> None:
        """Replace the listening socket; connected and waiting peers stay."""
        if self._resume_at is None:
            self._selector.unregister(self._listener)
        self._former.append(self._listener)
        self._listener = listener
        listener.setblocking(False)
        if self._resume_at is None:
            self._watch_listener()
            self._accept_former(at)

    def admits(self, uids: frozenset[int]) -> bool:
        """Whether it serves exactly these users."""
        return self._only_uids == uids

    @property
    def is_short(self) -> bool:
        """Whether a shortage on the host keeps connections waiting."""
        return self._resume_at is not None

    def check_backlog(self) -> bool:
        """Return, once a turn, whether unread input may have arrived before this turn.

        A peer that does not read its answers waits by its own fault. After `MOST_WAITING` inputs
        without a pause all that waited at first was handled: a flood stops nobody's clock.
        """
        waiting = self._accepted + sum(
            peer.has_line and not peer.unsent for peer in self._peers.values()
        )
        self._accepted = 0
        self._handled_in_a_row = self._handled_in_a_row + waiting if waiting else 0
        return 0 < self._handled_in_a_row <= MOST_WAITING

    def run_due(self, *, at: Instant) -> Instant | None:
        """Serve waiting peers, drop stalled ones; return when to be called again, None: never."""
        if self._resume_at is not None and at >= self._resume_at:
            self._resume_at = None
            self._watch_listener()
        if self._resume_at is None:
            self._accept_former(at)
        ready, self._ready = self._ready, {}
        for peer in ready.values():
            self._handle_next(peer)
        deadlines = [at] if self._ready or (self._former and not self.is_short) else []
        for peer in list(self._peers.values()):
            if (give_up_at := peer.give_up_at) is None:
                continue
            if at >= give_up_at:
                self._drop(peer)
            else:
                deadlines.append(give_up_at)
        deadlines += [] if self._resume_at is None else [self._resume_at]
        return min(deadlines, default=None)

    def _watch_listener(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, at: Instant, _: int) -> None:
        self._accept_at(self._listener, at)

    def _accept_former(self, at: Instant) -> None:
        """Accept some who wait at replaced listeners; close each that is empty."""
        while self._former and self._accept_at(self._former[0], at):
            self._former.pop(0).close()

    def _accept_at(self, listener: socket.socket, at: Instant) -> bool:
        for _ in range(ACCEPTS):
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    return True
                self._selector.unregister(self._listener)
                self._resume_at = Instant(at + SHORTAGE_DELAY)
                return False
            self._accepted += 1
            with suppress(OSError):  # gone already
                self._admit(connection, at)
        return False

    def _admit(self, connection: socket.socket, at: Instant) -> None:
        pid, uid = sockets.credentials(connection)
        if uid not in self._only_uids:
            log.warning("peer.refused", peer_uid=uid, peer_pid=pid, allowed=sorted(self._only_uids))
            with connection:
                connection.send(self._refusal, socket.MSG_DONTWAIT)
            return
        while len(self._peers) >= self._capacity():
            self._drop(self._idlest())
        connection.setblocking(False)
        owner = (uid, _run_of(pid))
        peer = self._peers[connection.fileno()] = Peer(connection, owner, pid, at, at)
        self._by_owner[owner] += 1
        self._watch(peer)

    def _idlest(self) -> Peer:
        """Return the peer to close, of a run that has most of them: a flood costs only its run.

        It is one without a valid line, unless those are few.
        """
        most = max(self._by_owner.values())
        theirs = [peer for peer in self._peers.values() if self._by_owner[peer.owner] == most]
        unproved = [peer for peer in theirs if not peer.is_proved]
        crowd = unproved if len(unproved) > UNPROVED_SEATS else theirs
        return min(crowd, key=lambda peer: peer.active_at)

    def _drop(self, peer: Peer) -> None:
        descriptor = peer.connection.fileno()
        if self._peers.pop(descriptor, None) is not None:
            self._ready.pop(descriptor, None)
            self._by_owner[peer.owner] -= 1
            if not self._by_owner[peer.owner]:
                del self._by_owner[peer.owner]
            if peer.events:
                self._selector.unregister(peer.connection)
            peer.connection.close()

    def _serve(self, peer: Peer, at: Instant, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                peer.receive(at)
            peer.send()
        except OSError:
            self._drop(peer)
        else:
            self._handle_next(peer)

    def _handle_next(self, peer: Peer) -> None:
        if peer.may_proceed:
            try:
                line = peer.take_line()
            except LineTooLong:
                self._answer(peer, _TOO_LONG)  # as much as fits its socket
                self._drop(peer)
                return
            if line is not None:
                peer.awaits_reply = True
                peer.is_proved |= self._handle(line, partial(self._answer, peer), peer.pid)
            elif peer.at_eof:
                self._drop(peer)
                return
        self._reschedule(peer)

    def _answer(self, peer: Peer, reply: object) -> None:
        """Send a reply, unless its peer has gone meanwhile."""
        if peer.is_closed:
            return
        peer.awaits_reply = False
        peer.unsent += wire.encode(reply) + b"\n"
        try:
            peer.send()
        except OSError:
            self._drop(peer)
        else:
            self._reschedule(peer)

    def _reschedule(self, peer: Peer) -> None:
        """Give a peer its turn in the next one of the loop, or wait for its next event."""
        if peer.is_closed:
            return
        if (peer.has_line or peer.at_eof) and peer.may_proceed:
            self._ready[peer.connection.fileno()] = peer
        self._watch(peer)

    def _watch(self, peer: Peer) -> None:
        wanted = peer.wanted_events
        if wanted == peer.events:
            return
        if not wanted:
            self._selector.unregister(peer.connection)
        elif peer.events:
            self._selector.modify(peer.connection, wanted, partial(self._serve, peer))
        else:
            self._selector.register(peer.connection, wanted, partial(self._serve, peer))
        peer.events = wanted


def _run_of(pid: int) -> int:
    """Return the mark of the run that a peer is of; 0 if it is of none, hidden, or gone."""
    try:
        return (marks.read_mark(pid) or 0) if pid else 0  # 0: its pid is of another namespace
    except ProcessLookupError:
        return 0
