"""A pooler in transaction mode, before a real server.

It gives a client one of its few sessions of the server for each transaction: the one that was free
for longest, so that a client's next transaction has another one. What a client set, prepared or
locked in a session meets the client that has it next.
"""

import queue
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Final

from tests.postgres import Postgres

#: A client that begins: its version of the protocol, and what it may ask for instead.
_PROTOCOL: Final = 3 << 16
_ENCRYPTION: Final = (80877103, 80877104)

#: Messages of a client that end with a ReadyForQuery of the server.
_ASKS: Final = (b"Q", b"S", b"F")


class Pooler:
    """Use `running`. A few sessions serve all clients of a database and a role."""

    def __init__(
        self,
        server: Postgres,
        *,
        size: int = 3,
        newest: bool = False,
        has_own_pids: bool = True,
        keeps: bool = False,
    ) -> None:
        """Let `size` sessions serve: with `newest`, first the one that was free for shortest.

        With `keeps` a client keeps its session to its end, which is session mode.
        With `has_own_pids` each client is told a number of its own as the server's process;
        otherwise that of the first session.
        """
        self._path = str(server.directory / ".s.PGSQL.5432")
        self._size = size
        self._kind = queue.LifoQueue if newest else queue.Queue
        self._has_own_pids = has_own_pids
        self._keeps = keeps
        self._pids = count(2**30)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._pools: dict[bytes, _Pool] = {}
        self._threads = [threading.Thread(target=self._accept)]
        self._clients: list[socket.socket] = []
        self.transactions = 0

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self._listener.getsockname()[1]}/{database}"

    @contextmanager
    def running(self) -> Iterator["Pooler"]:
        self._threads[0].start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._threads[0].join()
            self._listener.close()
            for client in self._clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            for pool in self._pools.values():
                pool.wake(len(self._clients))
            for thread in self._threads[1:]:
                thread.join()
            for pool in self._pools.values():
                pool.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._serve, args=[client]))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            pool = self._pool(_start_of(client))
            pid = next(self._pids) if self._has_own_pids else pool.pid
            client.sendall(pool.greeting + b"K" + struct.pack("!III", 12, pid, 0) + _READY)
            while (message := _message(client))[:1] != b"X":
                self._transact(client, message, pool)

    def _pool(self, start: bytes) -> "_Pool":
        with self._lock:
            if start not in self._pools:
                self._pools[start] = _Pool(self._path, start, self._kind(), self._size)
            return self._pools[start]

    def _transact(self, client: socket.socket, message: bytes, pool: "_Pool") -> None:
        """Give a client a session until that is in no transaction, and owes no answer."""
        session, is_sound = pool.take(), False
        try:
            awaited = 0
            while True:
                awaited += message[:1] in _ASKS
                session.sendall(message)
                readable: list[socket.socket] = []
                while client not in readable:
                    readable, _, _ = select.select([session, client], [], [])
                    if session in readable:
                        answer = _message(session)
                        awaited -= answer[:1] == b"Z"
                        is_sound = answer == _READY and not awaited
                        client.sendall(answer)
                        if is_sound and not self._keeps:
                            self.transactions += 1
                            return
                message = _message(client)
        finally:
            pool.give_back(session, is_sound=is_sound)


_READY: Final = b"Z" + struct.pack("!I", 5) + b"I"


class _Pool:
    """The sessions of a database and a role; None: one that has to be opened."""

    def __init__(
        self, path: str, start: bytes, free: "queue.Queue[socket.socket | None]", size: int
    ) -> None:
        self._path = path
        self._start = start
        self._free = free
        self.greeting, self.pid = b"", 0
        for _ in range(size):
            free.put(self._connect())

    def _connect(self) -> socket.socket:
        session = socket.socket(socket.AF_UNIX)
        try:
            session.connect(self._path)
            self._begin(session)
        except (OSError, EOFError):
            session.close()
            raise
        return session

    def _begin(self, session: socket.socket) -> None:
        session.sendall(struct.pack("!I", len(self._start) + 4) + self._start)
        greeting = b""
        while (message := _message(session))[:1] != b"Z":
            if message[:1] == b"E":
                raise EOFError(message)
            if message[:1] == b"K":
                self.pid = self.pid or struct.unpack("!I", message[5:9])[0]
            else:
                greeting += message
        self.greeting = greeting

    def take(self) -> socket.socket:
        """Take a free session; wait for one. What it has sent meanwhile is for nobody."""
        session = self._free.get()
        if session is not None:
            try:
                while select.select([session], [], [], 0)[0]:
                    _message(session)
            except (OSError, EOFError):
                session.close()
            else:
                return session
        try:
            return self._connect()
        except BaseException:
            self._free.put(None)
            raise

    def give_back(self, session: socket.socket, *, is_sound: bool) -> None:
        if not is_sound:  # its client is gone, or it is
            session.close()
        self._free.put(session if is_sound else None)

    def wake(self, clients: int) -> None:
        """Let clients that wait for a session find that they are gone."""
        for _ in range(clients):
            self._free.put(None)

    def close(self) -> None:
        while not self._free.empty():
            if (session := self._free.get()) is not None:
                session.close()


def _start_of(client: socket.socket) -> bytes:
    """Read how a client begins; return it with the name of the pooler, as all share its sessions.

    Raises `EOFError` for a client that only cancels another's statement.
    """
    while True:
        body = _exactly(client, struct.unpack("!I", _exactly(client, 4))[0] - 4)
        (kind,) = struct.unpack("!I", body[:4])
        if kind in _ENCRYPTION:
            client.sendall(b"N")
        elif kind >> 16 != _PROTOCOL >> 16:
            raise EOFError
        else:
            parts = body[4:].split(b"\0")
            wanted = dict(zip(parts[::2], parts[1::2], strict=False))
            wanted[b"application_name"] = b"pooler"
            pairs = b"".join(b"%s\0%s\0" % pair for pair in wanted.items() if pair[0])
            return struct.pack("!I", _PROTOCOL) + pairs + b"\0"


def _message(source: socket.socket) -> bytes:
    """Read one message of the protocol."""
    head = _exactly(source, 5)
    return head + _exactly(source, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (part := source.recv(size - len(found))):
            raise EOFError
        found += part
    return found
