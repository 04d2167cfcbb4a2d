"""A daemon as the executor sees it: a socket that speaks the wire protocol, and nothing behind."""

import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any, Self, TypeVar

from dispatcher import wire, worker_api
from tests.eventually import PATIENCE

M = TypeVar("M")


class Daemon:
    """One connection; it keeps every message until a test takes it."""

    def __init__(self, runtime_dir: Path, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(str(runtime_dir / "executor.sock"))
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(PATIENCE)
        self.messages: list[Any] = []
        self.runs: dict[str, wire.RunReport] = {}
        self.passed: list[int] = []
        self._rest = b""
        try:
            if greet:
                self.greeted()
        except ConnectionError:  # it was a dead executor's door
            self.close()
            raise

    def greeted(self) -> None:
        """Read the executor's greeting: who it is and what runs it knows."""
        self.hello = self.expect(wire.Hello)
        self.expect(wire.HelloEnd)

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.passed:
            os.close(descriptor)
        self.passed.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *messages: wire.ToExecutor) -> None:
        self.socket.sendall(b"".join(wire.encode(message) + b"\n" for message in messages))

    def start(self, command: list[str], output: Path | str, **settings: Any) -> wire.RunUid:
        """Send the start of a run, its marker set as the real daemon sets it; return its uid."""
        uid = wire.RunUid(settings.pop("uid", secrets.token_hex(16)))
        env = {worker_api.MARKER: uid, **settings.pop("env", {})}
        epoch = settings.pop("epoch", self.hello.epoch)
        self.send(
            wire.Start(
                uid=uid,
                epoch=epoch,
                command=tuple(command),
                env=env,
                output_path=str(output),
                **settings,
            )
        )
        return uid

    def read(self) -> bool:
        """Read what there is, waiting for something; False at the end of the stream."""
        chunk, passed, _, _ = socket.recv_fds(self.socket, 1 << 20, 4)
        self.passed += passed
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            message = wire.decode_from_executor(line)
            if isinstance(message, wire.RunReport):
                self.runs[message.uid] = message
            self.messages.append(message)
        return bool(chunk)

    def expect(self, kind: type[M], uid: str | None = None) -> M:
        """Return the first message of this type (about this run), and forget it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for message in self.messages:
                if isinstance(message, kind) and uid in {None, getattr(message, "uid", None)}:
                    self.messages.remove(message)
                    return message
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                alive = self.read()
            except TimeoutError:
                alive = False
            assert alive, f"no {kind.__name__} about {uid}; there were {self.messages}"

    def at_end(self) -> bool:
        """Read until the executor hangs up; False when it does not."""
        self.socket.settimeout(PATIENCE)
        try:
            while self.read():
                pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        return True

    def ping(self, number: int = 1) -> list[Any]:
        """Return the messages until the executor had handled everything sent before."""
        self.send(wire.Ping(sequence=number))
        self.expect(wire.Pong)
        received, self.messages = self.messages, []
        return received
