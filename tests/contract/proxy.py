"""A proxy before a server that cuts connections at a chosen moment."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto


class Cut(Enum):
    """When a connection is cut: at a COMMIT that the server never gets, or whose answer is lost."""

    NEVER = auto()
    BEFORE_COMMIT = auto()
    AFTER_COMMIT = auto()


class Proxy:
    """Forwards each connection to a unix socket, one after the other."""

    def __init__(self, server: str) -> None:
        self.cut = Cut.NEVER
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._ends = [client, server]
                with client, server, suppress(OSError):
                    self._forward(client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    is_commit = source is client and b"COMMIT\0" in data
                    if not data or (is_commit and self.cut is Cut.BEFORE_COMMIT):
                        return
                    target.sendall(data)
                    if is_commit and self.cut is Cut.AFTER_COMMIT:
                        server.recv(65536)
                        return

    def disconnect(self) -> None:
        """Cut the connection that there is."""
        for end in self._ends:
            with suppress(OSError):  # cutting one end lets the thread close both
                end.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        self.disconnect()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._close()
