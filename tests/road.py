"""The way of one host to a server: a TCP port that forwards to its socket, and can be cut."""

import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Flag, auto
from typing import Self

#: Closes a connection with a reset.
_AT_ONCE = b"\1\0\0\0\0\0\0\0"


class Way(Flag):
    """The directions in which nothing passes; it arrives once the road is open again."""

    NONE = 0
    THERE = auto()
    BACK = auto()
    BOTH = THERE | BACK


class Road:
    """Forwards connections to a unix socket. Use `running`."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._cut = Way.NONE
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._others: dict[socket.socket, tuple[socket.socket, Way]] = {}
        """The other end of each end, and the direction in which its bytes go."""
        self._orders: deque[Callable[[], object]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)
        self._is_over = False

    def url(self, user: str = "postgres", database: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def cut(self, way: Way = Way.BOTH) -> None:
        """Let nothing pass: neither bytes, nor the end of a connection, nor a new one."""
        self._order(lambda: self._let(way))

    def open(self) -> None:
        self._order(lambda: self._let(Way.NONE))

    def reset(self) -> None:
        """End every connection by a reset."""
        self._order(self._reset)

    @contextmanager
    def running(self) -> Iterator[Self]:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        try:
            yield self
        finally:
            self._order(self._end)
            self._thread.join()
            for one in (self._listener, self._wake, self._woken, self._selector, *self._others):
                one.close()

    def _order(self, order: Callable[[], object]) -> None:
        self._orders.append(order)
        self._wake.send(b"!")

    def _serve(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(1)
                    self._orders.popleft()()
                    break  # what was found may be gone
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._others:
                    self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._server)
        except OSError:  # it does not run
            client.close()
            server.close()
            return
        self._others |= {client: (server, Way.THERE), server: (client, Way.BACK)}
        self._selector.register(client, selectors.EVENT_READ)
        self._selector.register(server, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        target, _ = self._others[source]
        try:
            data = source.recv(65536)
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(source, target)

    def _let(self, way: Way) -> None:
        self._cut = way
        self._watch(self._listener, is_open=way is Way.NONE)
        for end, (_, direction) in self._others.items():
            self._watch(end, is_open=direction not in way)

    def _watch(self, end: socket.socket, *, is_open: bool) -> None:
        if not is_open:
            with suppress(KeyError):
                self._selector.unregister(end)
        elif end not in self._selector.get_map():
            self._selector.register(end, selectors.EVENT_READ)

    def _reset(self) -> None:
        for end in list(self._others):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        while self._others:
            end, (other, _) = next(iter(self._others.items()))
            self._close(end, other)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            self._watch(end, is_open=False)
            self._others.pop(end, None)
            end.close()

    def _end(self) -> None:
        self._is_over = True
