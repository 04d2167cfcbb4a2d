"""A worker that beats, declares its success over the socket, and does not go."""

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from dispatcher.model import TaskState
from tests.crash import workers
from tests.crash.parts import Part
from tests.crash.stage import Stage


class Declaring:
    """The declaration stands whichever process dies, or its run is lost and the next declares."""

    parts = (Part("declares", TaskState.SUCCEEDED, "succeeded", endless=True),)

    def begin(self, stage: Stage) -> None:
        self._lock = stage.directory / "lock"
        self._worker = Worker(stage.place.runtime_dir / "worker.sock")
        stage.submit(workers.SHOWS_ITS_LOCK, str(self._lock))

    def operate(self, stage: Stage) -> bool:
        if self._worker.done or stage.task(1).state is TaskState.SUCCEEDED:
            self._worker.close()  # it may have declared, and died before it read the answer
            return False
        self.repeat()
        return True

    def repeat(self) -> None:
        """Let the worker send its requests, or read the answers."""
        if self._lock.exists():
            self._worker.proceed(lock=self._lock.read_text("ascii").strip())

    @property
    def answered(self) -> bool:
        """Whether the worker knows that its declaration stands."""
        return self._worker.done


class Worker:
    """The worker's side of the socket: it repeats itself until it is accepted."""

    def __init__(self, path: Path) -> None:
        self.done = False
        self._path = str(path)
        self._socket: socket.socket | None = None
        self._received = b""

    def proceed(self, *, lock: str) -> None:
        """Send the requests, or read the answers, without waiting."""
        if self._socket is None:
            self._send(lock)
            return
        try:
            chunk = self._socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        self._received += chunk
        if not chunk or self._received.count(b"\n") == 2:
            self.close()
            # A refusal is of an earlier run's lock: the next one shows its own.
            self.done = self._accepted()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, lock: str) -> None:
        words: list[dict[str, Any]] = [
            {"op": "heartbeat", "progress": 0.5},
            {"op": "succeed", "result": {"answer": 42}},
        ]
        self._received = b""
        speaker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            speaker.connect(self._path)
            for word in words:
                speaker.sendall(json.dumps({**word, "task_id": 1, "lock": lock}).encode() + b"\n")
        except OSError:
            speaker.close()
        else:
            self._socket = speaker

    def _accepted(self) -> bool:
        with suppress(IndexError):
            return json.loads(self._received.splitlines()[1])["ok"]
        return False
