"""What workers say over their socket, and what they are told."""

from __future__ import annotations

from functools import partial

import msgspec

from dispatcher.channels import Reply
from dispatcher.times import StoreTime
from dispatcher.turn import Request
from dispatcher.wire import WorkerError
from dispatcher.words import REMEDIES, Accepted, Refused, Renewed, understood


class WorkerChannel:
    """Collects what workers say until the next tick, and words the answers."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def hear(self, line: bytes, reply: Reply) -> None:
        """Take one line; what cannot be understood is answered at once."""
        try:
            words = understood(line)
        except (msgspec.MsgspecError, ValueError) as error:
            reply({"ok": False, "error": WorkerError.INVALID, "message": str(error)})
        else:
            self._requests.append(Request(words, partial(_answer, reply)))

    def take(self) -> list[Request]:
        """Return what was said since the last call."""
        requests, self._requests = self._requests, []
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
