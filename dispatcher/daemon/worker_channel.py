"""What workers say over their socket, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from dispatcher.daemon.channels import Reply
from dispatcher.supervisor.turn import Request
from dispatcher.times import Instant, StoreTime
from dispatcher.wire import encode
from dispatcher.words import REMEDIES, Accepted, Refused, Renewed, understood
from dispatcher.worker_api import WorkerError

#: Seconds between two takings: what workers say meanwhile shares one commit. A lone worker waits
#: for nothing, and a flood costs twenty commits a second.
GROUPING = 0.05

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


class WorkerChannel:
    """Collects what workers say until a tick takes it, and words the answers."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._senseless: list[Callable[[], None]] = []
        self._taken_at = Instant(float("-inf"))

    def hear(self, line: bytes, reply: Reply, pid: int | None = None) -> bool:
        """Take one line; what cannot be understood is answered at the next taking, with the rest.

        Tells whether it was understood.
        """
        try:
            words = understood(line)
        except ValueError as error:
            answer = {"ok": False, "error": WorkerError.INVALID, "message": str(error)}
            self._senseless.append(partial(reply, answer))
            return False
        self._requests.append(Request(words, partial(_answer, reply), pid))
        return True

    def due(self, *, shortest: float) -> Instant | None:
        """Return when to take what was said; None if nothing was.

        `shortest` is the shortest living lease, in seconds: no beat waits for an eighth of its own.
        """
        if not self._requests and not self._senseless:
            return None
        return Instant(self._taken_at + min(GROUPING, shortest / 8))

    def take(self, *, at: Instant) -> list[Request]:
        """Return what was said since the last taking."""
        requests, self._requests = self._requests, []
        senseless, self._senseless = self._senseless, []
        if requests or senseless:
            self._taken_at = at
        for reply in senseless:
            reply()
        return requests


def _answer(reply: Reply, answer: Renewed | Accepted | Refused | None, now: StoreTime) -> None:
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
        case None:
            error = WorkerError.STORE_UNAVAILABLE
            reply({"ok": False, "error": error, "message": REMEDIES[error]})
