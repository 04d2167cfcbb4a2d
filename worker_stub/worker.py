"""A worker's claim, kept alive and ended: `Worker`, a context manager."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, NoReturn, Self

from worker_stub import names
from worker_stub.daemon_socket import DaemonSocket, Unreachable, json_text

#: Seconds until an unanswered request is sent again: at first, and at most.
RETRY = (0.1, 5.0)

#: Seconds that one request may take at most; less if the lease is short.
ANSWER = 10.0


class Refused(Exception):
    """The daemon refused. `error` is a name of the protocol, `message` has the remedy."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(error, message)
        self.error = error
        self.message = message

    @property
    def lost(self) -> bool:
        """Whether the claim is gone: stop working, record nothing, exit 79."""
        return self.error in names.LOST

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


class Worker:
    """The claim under which this process runs.

        with Worker() as worker:
            for step in work:
                worker.progress(step / len(work))

    A thread sends heartbeats, so that a blocked main thread keeps its lease. So that a wedged
    worker loses it: with `beats="calls"` only `heartbeat` sends them; with `beats="events"` the
    thread does after each call of `alive`, at most two in an interval. The claim lock is removed
    from the environment: processes started later do not inherit it.

    A silent daemon never ends the worker, only a refusal does: the thread calls `on_refused`, or
    exits the process at once with code 79.
    """

    def __init__(
        self,
        *,
        beats: Literal["thread", "calls", "events"] = "thread",
        on_refused: Callable[[Refused], object] | None = None,
        environ: MutableMapping[str, str] = os.environ,
    ) -> None:
        """Take the claim from the environment. Raises RuntimeError without one."""
        missing = [name for name in (names.SOCKET, names.CLAIM_LOCK) if not environ.get(name)]
        if missing:
            raise RuntimeError(f"not started by a dispatcher: {', '.join(missing)} is not set")
        self.task_id = int(environ[names.TASK_ID])
        self.lease_ttl = float(environ[names.LEASE_TTL])
        self._interval = float(environ[names.HEARTBEAT_INTERVAL])
        self._lock = environ.pop(names.CLAIM_LOCK)
        self._socket = DaemonSocket(environ[names.SOCKET])
        self._on_refused = on_refused or _exit
        self._beats = beats
        self._requesting = threading.Lock()
        self._reporting = threading.Lock()
        self._report: dict[str, Any] = {}
        self._over = threading.Event()
        self._alive = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._beats != "calls":
            self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._thread is not None:
            self._thread.join(timeout=ANSWER)
        with self._requesting:
            self._socket.close()

    def progress(self, fraction: float | None = None, note: str | None = None) -> None:
        """Report with the next heartbeat the progress, from 0 to 1, and a note.

        Raises ValueError for another number, and for a note of more than 4096 characters. One that
        is not UTF-8 is left out.
        """
        report: dict[str, Any] = {}
        if fraction is not None:
            if not 0 <= fraction <= 1:
                raise ValueError(f"progress: must be from 0 to 1, not {fraction}")
            report["progress"] = fraction
        if note is not None:
            if len(note) > names.MAX_TEXT:
                raise ValueError(f"note: {len(note)} characters are more than {names.MAX_TEXT}")
            report["note"] = note
        with self._reporting:
            self._report |= report

    def checkpoint(self, value: object) -> None:
        """Report with the next heartbeat what the next run of the task finds: any JSON, 32 KiB.

        What becomes of the value later changes nothing. Raises ValueError for more, and for a value
        that cannot be JSON, such as NaN.
        """
        text = json_text("checkpoint", value)
        if len(text) > names.MAX_RESULT:
            raise ValueError(f"checkpoint: {len(text)} bytes are more than {names.MAX_RESULT}")
        with self._reporting:
            self._report["checkpoint"] = json.loads(text)

    def alive(self) -> None:
        """Renew the lease soon, in the thread of `beats="events"`."""
        self._alive.set()

    def flush(self) -> None:
        """Report what no heartbeat has reported yet, before a declaration. Raises `Refused`."""
        if self._report:
            self._retried(self.heartbeat)

    def heartbeat(self, progress: float | None = None, note: str | None = None) -> float:
        """Renew the lease; return the seconds that it lasts now.

        Raises `Refused`, and `Unreachable` without an answer: try again.
        """
        self.progress(progress, note)
        with self._reporting:
            report, self._report = self._report, {}
        try:
            reply = self._request({"op": "heartbeat", **report})
        except Unreachable:
            with self._reporting:
                self._report = {**report, **self._report}
            raise
        return float(reply["lease_expires_in"])

    def succeed(self, result: object = None) -> None:
        """Declare success, with a result for people and programs. Then exit."""
        self._declare({"op": "succeed", **({} if result is None else {"result": result})})

    def fail(self, reason: str, *, retry: bool = True) -> None:
        """Declare failure; without `retry` the task fails for good. Then exit."""
        self._declare({"op": "fail", "reason": reason, "retry": retry})

    def defer(
        self,
        delay: float | None = None,
        *,
        until: str | None = None,
        close: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Declare that it is too early: by so many seconds, or until a date (RFC 3339). Then exit.

        With `close`, a named limit that the task takes lets nothing start until then.
        """
        asked = {"delay": delay, "until": until, "close": close, "reason": reason}
        given = {name: value for name, value in asked.items() if value is not None}
        self._declare({"op": "defer", **given})

    def hold(self, reason: str, *, question: str | None = None, kind: str | None = None) -> None:
        """Declare that a person must act first. Then exit.

        The next run finds the question and its answer. `kind`: needs_input, capability, approval.
        """
        asked = {"question": question, "kind": kind}
        given = {name: value for name, value in asked.items() if value is not None}
        self._declare({"op": "hold", "reason": reason, **given})

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        full = {"lock": self._lock, "task_id": self.task_id, **request}
        with self._requesting:
            reply = self._socket.request(full, within=min(ANSWER, max(0.2, self.lease_ttl / 3)))
        if reply.get("ok"):
            return reply
        error, message = str(reply.get("error")), str(reply.get("message", ""))
        if error == names.STORE_UNAVAILABLE:
            raise Unreachable(message)
        raise Refused(error, message)

    def _declare(self, request: dict[str, Any]) -> None:
        """Repeat a declaration until it is answered: a repeated one is accepted once."""
        self._retried(lambda: self._request(request))
        self._end()

    @staticmethod
    def _retried(request: Callable[[], object]) -> None:
        delay, longest = RETRY
        while True:
            try:
                request()
            except Unreachable:
                time.sleep(delay)
                delay = min(longest, delay * 2)
            else:
                return

    def _end(self) -> None:
        self._over.set()
        self._alive.set()

    def _is_due(self) -> bool:
        """Wait until a beat is due; return whether one is."""
        if self._beats == "events":
            self._alive.wait()
            self._alive.clear()
        return not self._over.is_set()

    def _beat(self) -> None:
        wait = 0.0
        delay, longest = RETRY
        often = 2 if self._beats == "events" else 1
        while not self._over.wait(wait) and self._is_due():
            try:
                wait = min(self._interval, self.heartbeat() / 3) / often
                delay = RETRY[0]
                continue
            except Unreachable:
                wait = delay
                delay = min(longest, delay * 2, max(0.05, self._interval))
            except ValueError as error:  # so is one that cannot be sent
                _print(error)
                wait = delay
            except Refused as refusal:
                if refusal.error != names.INVALID:  # then the claim is wrong, not the report
                    if not self._over.is_set():
                        self._on_refused(refusal)
                    return
                _print(refusal)
                wait = delay
            self._alive.set()


def _exit(refusal: Refused) -> NoReturn:
    """Exit at once, from any thread: another run may own the task already."""
    _print(refusal)
    os._exit(names.LEASE_LOST)


def _print(error: Exception) -> None:
    sys.stderr.write(f"worker_stub: {error}\n")
    sys.stderr.flush()
