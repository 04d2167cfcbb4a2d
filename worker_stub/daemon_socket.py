"""Requests over the daemon's worker socket: one JSON object a line each way."""

import json
import socket
import time
from contextlib import suppress
from typing import Any

from worker_stub.names import MAX_LINE

#: Seconds to wait for a missing socket: the executor makes a removed one again within one.
MISSING = 2.0

#: Seconds between two attempts to connect to it.
LOOKS = 0.05


class Unreachable(Exception):
    """No daemon answered in time; it may be restarting: try again."""


def json_text(what: str, value: object) -> bytes:
    """Return a value as JSON, as short as it can be. Raises ValueError if it cannot be JSON."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be JSON: {error}") from None


class DaemonSocket:
    """A connection that is made when needed, and again after it broke."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: socket.socket | None = None
        self._missing_since: float | None = None
        """Since when every attempt found no socket; None: the last one found it."""

    def request(self, request: dict[str, Any], *, within: float) -> dict[str, Any]:
        """Send a request and return its reply.

        Raises `Unreachable` after `within` seconds, or when the socket has been missing for
        `MISSING` seconds: a first call waits for it, later ones do not wait again. Raises
        ValueError for what cannot be sent.
        """
        line = json_text("the request", request) + b"\n"
        if len(line) > MAX_LINE:
            raise ValueError(f"{len(line)} bytes are more than one line holds ({MAX_LINE})")
        try:
            connection = self._connected(within)
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have refused us already
                connection.sendall(line)
            reply: dict[str, Any] = json.loads(self._line(connection))
        except (OSError, ValueError) as error:
            self.close()
            raise Unreachable(f"{self._path}: {error or 'no answer'}") from error
        return reply

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self, within: float) -> socket.socket:
        if self._connection is None:
            self._connection = self._connect(within)
        self._connection.settimeout(within)
        return self._connection

    @staticmethod
    def _line(connection: socket.socket) -> bytes:
        received = b""
        while not received.endswith(b"\n"):
            chunk = connection.recv(MAX_LINE)
            if not chunk or len(received) > MAX_LINE:
                raise ConnectionResetError("the daemon closed the connection")
            received += chunk
        return received

    def _connect(self, within: float) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(within)
                connection.connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                now = time.monotonic()
                self._missing_since = self._missing_since or now
                if now > self._missing_since + MISSING:
                    raise
            except OSError:
                connection.close()
                raise
            else:
                self._missing_since = None
                return connection
            time.sleep(LOOKS)
