"""Where the MCP server of an agent speaks for its run: it never learns the lock."""

import json
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from worker_stub import names

#: Bytes of one request.
MAX_REQUEST = 256 * 1024

#: Answers a request.
Handle = Callable[[dict[str, Any]], Mapping[str, Any]]


class Desk:
    """Answers one JSON object a line with another, over an abstract socket of this user's own."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.address = f"@dispatcher-agent-{os.getpid()}-{secrets.token_hex(8)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path_of(self.address))
        self._listener.listen()
        self._start(self._accept)

    def close(self) -> None:
        """Accept nobody any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if _user_of(connection) in {0, os.geteuid()}:
                self._start(partial(self._serve, connection))
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            while line := lines.readline(MAX_REQUEST):
                connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            return self._handle(request)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return {"ok": False, "error": names.INVALID, "message": str(error)}

    @staticmethod
    def _start(work: Callable[[], object]) -> None:
        threading.Thread(target=work, name="desk", daemon=True).start()


def ask(address: str, request: Mapping[str, Any], *, within: float) -> dict[str, Any]:
    """Ask at a desk; return its answer. Raises OSError and ValueError without one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(within)
        connection.connect(path_of(address))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
    return answer


def path_of(address: str) -> str:
    """Return a socket's path for an address as a variable holds it."""
    return "\0" + address[1:] if address.startswith("@") else address


def _user_of(connection: socket.socket) -> int:
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", found)
    return int(uid)
