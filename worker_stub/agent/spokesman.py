"""What an agent says of its task through its tools, said to the daemon under the claim."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from worker_stub import names
from worker_stub.agent.handover import Before
from worker_stub.agent.run import AgentEnd
from worker_stub.daemon_socket import Unreachable, json_text
from worker_stub.worker import Refused, Worker

#: Bytes of an agent's own checkpoint, and of its own result: ours have their place beside them.
MAX_OWN = names.MAX_RESULT - 4096

#: What a held task waits for.
KINDS = ("needs_input", "capability", "approval")

#: Seconds between the answer to an agent whose claim is lost and its end.
LAST_WORDS = 1.0

_OVER = "Recorded. End your turn now, and do nothing more."
_AWAY = "The dispatcher is away: this is reported when it is back. Go on."


class Spokesman:
    """Answers the tools of an agent: its progress is sent at once, its end once it has exited."""

    def __init__(
        self,
        worker: Worker,
        before: Before,
        *,
        declares: Callable[[], object],
        lost: Callable[[Refused], object],
    ) -> None:
        """Call `declares` after a declaration, `lost` soon after the claim was refused."""
        self._worker = worker
        self._before = before
        self._declares = declares
        self._lost = lost
        self.checkpoint = before.own
        """The agent's own."""
        self.declared: AgentEnd | None = None

    def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a request. Raises ValueError, TypeError or KeyError for a wrong one."""
        op = request["op"]
        if op == "show":
            return {"ok": True, **self._shown()}
        try:
            if op == "progress":
                return {"ok": True, **self._progress(request)}
            end = _end(op, request)
            with suppress(Unreachable):  # the declaration itself is repeated until it is answered
                self._worker.heartbeat()
        except Refused as refusal:
            if refusal.lost:
                threading.Timer(LAST_WORDS, self._lost, [refusal]).start()
            return {"ok": False, "error": refusal.error, "message": refusal.message}
        self.declared = end
        self._declares()
        return {"ok": True, "declared": op, "next": _OVER}

    def _progress(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if (own := request.get("checkpoint")) is not None:
            _check_size("checkpoint", own)
            self.checkpoint = own
        note = request.get("note")
        try:
            expires = self._worker.heartbeat(request.get("progress"), note)
        except Unreachable:
            self._worker.alive()
            return {"lease_expires_in": None, "next": _AWAY}
        return {"lease_expires_in": expires}

    def _shown(self) -> Mapping[str, Any]:
        environ = os.environ
        return {
            "task_id": self._worker.task_id,
            "attempt": int(environ.get(names.ATTEMPT, "1")),
            "queue": environ.get(names.QUEUE),
            "payload": _json(_payload()),
            "parents": _json(_parents()) or [],
            **self._before.handed_over,
            "checkpoint": self.checkpoint,
        }


def _end(op: str, request: Mapping[str, Any]) -> AgentEnd:
    more: dict[str, Any]
    match op:
        case "complete":
            result = request.get("result")
            _check_size("result", result)
            return AgentEnd(op="succeed", more={} if result is None else {"result": result})
        case "fail":
            more = {"retry": request.get("retry", True) is not False}
            return AgentEnd(op="fail", reason=_text(request, "reason"), more=more)
        case "hold":
            question = _text(request, "question", names.MAX_QUESTION)
            if (kind := request.get("kind", "needs_input")) not in KINDS:
                raise ValueError(f"kind: must be one of {', '.join(KINDS)}")
            more = {"question": question, "kind": kind}
            return AgentEnd(op="hold", reason=question[: names.MAX_TEXT // 2], more=more)
        case "defer":
            more = {"limit": _text(request, "limit", 200)} if "limit" in request else {}
            reason = _text(request, "reason") if "reason" in request else "the agent defers"
            return AgentEnd(op="defer", until=_until(request), reason=reason, more=more)
    raise ValueError(f"op: {op!r} is unknown")


def _text(request: Mapping[str, Any], name: str, most: int = names.MAX_TEXT) -> str:
    value = request[name]
    if not isinstance(value, str):
        raise TypeError(f"{name}: must be a text")
    value = value.replace("\0", " ").strip()
    if not value or len(value) > most:
        raise ValueError(f"{name}: must have 1 to {most} characters, not {len(value)}")
    json_text(name, value)
    return value


def _until(request: Mapping[str, Any]) -> float | None:
    if (until := request.get("until")) is not None:
        at = datetime.fromisoformat(until)
        if at.tzinfo is None:
            raise ValueError(f"until: {until} has no zone; write e.g. 2026-08-01T06:00:00Z")
        return at.timestamp()
    if (delay := request.get("delay")) is None:
        return None
    if not 0 <= delay <= names.MAX_DELAY:
        raise ValueError(f"delay: must be from 0 to {names.MAX_DELAY} seconds, not {delay}")
    return time.time() + float(delay)


def _check_size(name: str, value: object) -> None:
    if (size := len(json_text(name, value))) > MAX_OWN:
        raise ValueError(f"{name}: {size} bytes are more than {MAX_OWN}; write it to a file")


def _payload() -> str:
    """Return the payload without taking it from the agent's stdin; "": there is none."""
    with suppress(OSError):  # stdin is a pipe, or closed
        size = os.fstat(0).st_size
        return os.pread(0, size, 0).decode("utf-8", "replace")
    return ""


def _parents() -> str:
    if (file := os.environ.get(names.PARENTS_FILE)) is not None:
        with suppress(OSError):
            return Path(file).read_text("utf-8")
    return os.environ.get(names.PARENTS, "")


def _json(value: str) -> Any:
    """Return what a text is as JSON; None for "", the text itself if it is none."""
    try:
        return json.loads(value) if value else None
    except (ValueError, RecursionError):
        return value
