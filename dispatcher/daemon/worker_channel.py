"""The workers' socket: collects requests until a tick takes them, and writes the answers."""

import resource
import selectors
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from dispatcher.daemon.channel import CONNECTIONS, Channel, Reply
from dispatcher.supervisor.turn import Request
from dispatcher.times import Instant, StoreTime
from dispatcher.wire import encode
from dispatcher.words import REMEDIES, Accepted, Invalid, Refused, Renewed, parse_request
from dispatcher.worker_api import WorkerError

#: Seconds between two takes: requests of one interval share a commit. A lone worker does not wait,
#: and a flood costs twenty commits a second.
GROUPING = 0.05

#: Connections for each slot: a worker's own, and one of a command that it runs.
CONNECTIONS_PER_SLOT = 2

#: Descriptors that the connections of workers leave to everything else in the daemon.
KEPT_DESCRIPTORS = 64

#: The one line that a process of another user receives.
NOT_ALLOWED: Final = (
    encode(
        {
            "ok": False,
            "error": WorkerError.NOT_ALLOWED,
            "message": REMEDIES[WorkerError.NOT_ALLOWED],
        }
    )
    + b"\n"
)


def connections(slots: int) -> int:
    """Return how many connections of workers may be open, where the limit of files allows it."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return max(CONNECTIONS, CONNECTIONS_PER_SLOT * slots)
    return max(CONNECTIONS, min(CONNECTIONS_PER_SLOT * slots, allowed - KEPT_DESCRIPTORS))


class WorkerRequests:
    """The requests that no tick has taken yet."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._refusals: list[Callable[[], None]] = []
        self._taken_at = Instant(float("-inf"))

    def add(self, line: bytes, reply: Reply, pid: int | None = None) -> bool:
        """Parse and keep a line until the next take; return whether it is valid."""
        try:
            words = parse_request(line)
        except ValueError as error:
            answer = {"ok": False, "error": WorkerError.INVALID, "message": str(error)}
            self._refusals.append(partial(reply, answer))
            return False
        self._requests.append(Request(words, partial(_answer, reply), pid))
        return True

    def due(self, *, shortest: float) -> Instant | None:
        """Return when to take the requests; None if there are none."""
        if not self._requests and not self._refusals:
            return None
        return self.pause_end(shortest=shortest)

    def pause_end(self, *, shortest: float) -> Instant:
        """Return when the pause since the last take ends, before which nothing is taken.

        `shortest` is the shortest living lease, in seconds: no beat waits for an eighth of its own.
        """
        return Instant(self._taken_at + min(GROUPING, shortest / 8))

    def take(self, *, at: Instant) -> list[Request]:
        """Return the requests since the last take; refuse the invalid ones."""
        requests, self._requests = self._requests, []
        refusals, self._refusals = self._refusals, []
        if requests or refusals:
            self._taken_at = at
        for refuse in refusals:
            refuse()
        return requests


class WorkerChannel:
    """The channel at the listening socket that the executor sent last; none before the first."""

    def __init__(self, selector: selectors.BaseSelector, *, capacity: Callable[[], int]) -> None:
        self.requests = WorkerRequests()
        self._selector = selector
        self._capacity = capacity
        self._channel: Channel | None = None

    def listen_at(self, listener: socket.socket, *, uids: frozenset[int], at: Instant) -> None:
        """Serve these users at this socket from now on."""
        if self._channel is not None and self._channel.admits(uids):
            self._channel.listen_at(listener, at=at)
            return
        self.close()
        self._channel = Channel(
            listener,
            self.requests.add,
            selector=self._selector,
            only_uids=uids,
            refusal=NOT_ALLOWED,
            capacity=self._capacity,
        )

    @property
    def is_short(self) -> bool:
        """Whether a shortage on the host keeps workers waiting."""
        return self._channel is not None and self._channel.is_short

    def check_backlog(self) -> bool:
        """Return, once a turn, whether unread requests may have arrived before this turn."""
        return self._channel is not None and self._channel.check_backlog()

    def run_due(self, *, at: Instant) -> Instant | None:
        """Serve waiting workers; return when to be called again, None: never."""
        return None if self._channel is None else self._channel.run_due(at=at)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _answer(
    reply: Reply, answer: Renewed | Accepted | Refused | Invalid | None, now: StoreTime
) -> None:
    match answer:
        case Renewed():
            reply({"ok": True, "lease_expires_in": (answer.lease_expires_at - now) / 1000})
        case Accepted():
            reply({"ok": True})
        case Refused():
            reply(
                {
                    "ok": False,
                    "error": answer.error,
                    "message": REMEDIES[answer.error],
                    "state": answer.state,
                    "attempt": answer.attempt,
                }
            )
        case Invalid():
            reply({"ok": False, "error": WorkerError.INVALID, "message": answer.why})
        case None:
            error = WorkerError.STORE_UNAVAILABLE
            reply({"ok": False, "error": error, "message": REMEDIES[error]})
