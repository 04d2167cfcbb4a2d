"""What workers say over their socket, and what they are told."""

from __future__ import annotations

from functools import partial

import msgspec

from dispatcher import wire
from dispatcher.channels import Reply
from dispatcher.model import Declared
from dispatcher.times import StoreTime
from dispatcher.turn import Request
from dispatcher.wire import WorkerError
from dispatcher.words import Accepted, Beat, Declaration, Refused, Renewed

_STOP = "another claim may own the task: stop working, record nothing, exit 79"

#: What a worker is to do, for each refusal.
REMEDIES = {
    WorkerError.NOT_OWNER: f"this is not the lock of the run, or the run is ending; {_STOP}",
    WorkerError.SUPERSEDED: f"a newer run owns the task; {_STOP}",
    WorkerError.NOT_RUNNING: f"the task is not running; {_STOP}",
    WorkerError.UNKNOWN_TASK: "there is no such task; stop working, exit 79",
    WorkerError.ALREADY_DECLARED: "another outcome was declared before and stands; exit",
    WorkerError.STORE_UNAVAILABLE: "nothing was written; work on and ask again",
}


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


def understood(line: bytes) -> Beat | Declaration:
    """Return what a line asks. Raises `MsgspecError` or ValueError, which say what is wrong."""
    said: wire.AnyWorkerRequest = wire.decode_worker_request(line)
    declared = partial(Declaration, task_id=said.task_id, lock=said.lock)
    match said:
        case wire.Heartbeat():
            return Beat(
                task_id=said.task_id, lock=said.lock, progress=said.progress, note=said.note
            )
        case wire.Succeed():
            result = bytes(said.result)
            if len(result) > wire.MAX_RESULT:
                size = f"{len(result)} bytes are more than {wire.MAX_RESULT}"
                raise ValueError(f"result: {size}; write it to a file and name that")
            return declared(word=Declared.SUCCEED, result=result.decode() or None)
        case wire.Fail():
            return declared(word=Declared.FAIL, reason=said.reason, retry=said.retry)
        case wire.Defer():
            delay_ms = None if said.delay is None else round(said.delay * 1000)
            return declared(word=Declared.DEFER, delay_ms=delay_ms)
        case wire.Hold():
            return declared(word=Declared.HOLD, reason=said.reason)


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
