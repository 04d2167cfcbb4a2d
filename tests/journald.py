"""A journald for tests: a datagram socket that reads its native protocol, and no more."""

import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.eventually import eventually

Record = dict[str, bytes]


class Journald:
    """Listens at a path of its own; `records` holds what it received, in order."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="journald-"))  # short: a socket's path is
        self.path = self._directory / "socket"
        self.environ: Mapping[str, str] = {"DISPATCHER_JOURNAL_SOCKET": str(self.path)}
        self.records: list[Record] = []
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.listen()

    def listen(self) -> None:
        """Be there, with nothing waiting."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        listener.bind(str(self.path))
        listener.setblocking(False)
        self._socket = listener

    def leave(self) -> None:
        """Be there no more, once all that waits was read: systemd keeps it for the next."""
        self.take()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
                self.path.unlink()

    def close(self) -> None:
        self.leave()
        shutil.rmtree(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> list[Record]:
        """Read all that waits; return what was ever read."""
        with self._lock, suppress(BlockingIOError):
            while self._socket is not None:
                data, passed, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
                for file in passed:
                    data = os.pread(file, os.fstat(file).st_size, 0)
                    os.close(file)
                self.records.append(parsed(data))
        return self.records

    @contextmanager
    def taking(self) -> Iterator[Self]:
        """Read in a thread, as a journald that keeps up."""
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                self.take()
                done.wait(0.001)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            self.take()

    def found(self, **fields: object) -> list[Record]:
        """Return the records that have these fields, as `journalctl FIELD=VALUE` does."""
        wanted = {name: str(value).encode() for name, value in fields.items()}
        return [record for record in self.records if wanted.items() <= record.items()]

    def expect(self, **fields: object) -> Record:
        """Return the first record with these fields, waiting for it."""

        def probe() -> Record:
            self.take()
            assert self.found(**fields), self.records
            return self.found(**fields)[0]

        return eventually(probe)


def parsed(data: bytes) -> Record:
    """Return the fields of a datagram. AssertionError: journald would drop it, or a part of it."""
    record: Record = {}
    while data:
        head, found, data = data.partition(b"\n")
        assert found, head
        name, assigned, value = head.partition(b"=")
        if not assigned:
            size = int.from_bytes(data[:8], "little")
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert (size, b"\n") == (len(value), end)
        key = name.decode("ascii")
        assert re.fullmatch("[A-Z][A-Z0-9_]{0,63}", key), key
        assert key not in record, f"{key} twice"
        record[key] = value
    return record
