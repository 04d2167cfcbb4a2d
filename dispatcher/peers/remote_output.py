"""Reading the output of a run on another node, from that node's listener."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Self

import msgspec

from dispatcher.config.peer_settings import PeersSection
from dispatcher.errors import DispatcherError
from dispatcher.host import addresses
from dispatcher.peers import trust
from dispatcher.peers.contract import MORE, MOST_OF_MESSAGE, PATIENCE, Ask, OutputPart

#: Seconds that a listener may take to accept a connection.
CONNECTED_WITHIN = 10.0

#: Seconds for which a listener that was lost is sought again, as its daemon may be restarting.
SOUGHT_FOR = 30.0

#: Seconds between two tries.
AGAIN = 0.5


class OutOfReach(DispatcherError):
    """The listener gives no output; name where the output is."""


class NoOutput(Exception):
    """What answers gives none, and will not; explain the reason."""


class RemoteOutput:
    """One run's output on another node; used like `RunOutput`.

    Every method but `close` raises `OutOfReach`, and `ConfigError` for this host's own files.
    """

    def __init__(
        self,
        announced: str,
        peers: PeersSection,
        uid: str,
        *,
        tail: int | None = None,
        explained: Callable[[str], str] = str,
    ) -> None:
        """Read from the beginning, or from the last `tail` lines, at `tls://HOST:PORT`.

        `explained` makes the text of an error of its reason.
        """
        self._announced = announced
        self._peers = peers
        self._uid = uid
        self._explained = explained
        self._tail = tail
        self._offset = 0
        self._connection: _Connection | None = None
        self._exists: bool | None = None
        self._kept: bytes | None = None
        """What `exists` has read before its time."""
        self.dropped = self.holes = self.truncated = 0
        """As in `RunOutput`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def exists(self) -> bool:
        """Return whether there was a file when it was last read from."""
        if self._exists is None:
            self._kept = self._next()
        return bool(self._exists)

    def read(self) -> bytes:
        """Return what was written since the last call; b"" for nothing."""
        kept, self._kept = self._kept, None
        return self._next() if kept is None else kept

    def _next(self) -> bytes:
        until = time.monotonic() + SOUGHT_FOR
        while True:
            try:
                return self._receive()
            except NoOutput as error:
                raise OutOfReach(self._explained(str(error))) from error
            except (OSError, EOFError) as error:
                self.close()
                is_lost = self._exists is not None and not isinstance(error, ssl.SSLError)
                if not is_lost or time.monotonic() >= until:
                    raise OutOfReach(self._explained(_reason(error))) from error
            time.sleep(AGAIN)

    def _receive(self) -> bytes:
        if self._connection is None:
            self._connection = _Connection(self._announced, self._peers)
            tail = None if self._offset else self._tail
            self._connection.ask(self._uid, offset=self._offset, tail=tail)
        part, content = self._connection.receive()
        if part.refused is not None:
            raise NoOutput(part.refused)
        self._offset, self._exists = part.offset, part.exists
        self.dropped += part.dropped
        self.holes += part.holes
        self.truncated += part.truncated
        return content


class _Connection:
    """A connection to a listener, which has been shown nothing yet."""

    def __init__(self, announced: str, peers: PeersSection) -> None:
        scheme, _, text = announced.partition("://")
        try:
            address = addresses.parse(text)
        except ValueError as error:
            raise NoOutput(f"its row in the store is damaged: {error}") from error
        if scheme != "tls" and not address.is_loopback:
            raise NoOutput("it has no TLS, without which no token is sent to another host")
        assert peers.token_file is not None
        self._token = trust.token(peers.token_file)
        context = trust.reader_context(peers) if scheme == "tls" else None
        self._socket = socket.create_connection(address, CONNECTED_WITHIN)
        try:
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=address.host)
            self._socket.settimeout(PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            self._socket.close()
            raise
        self._lines: BinaryIO = self._socket.makefile("rb")
        self._has_read_all = False

    def ask(self, uid: str, *, offset: int, tail: int | None) -> None:
        ask = Ask(token=self._token, uid=uid, offset=offset, tail=tail)
        with suppress(OSError):  # reading shows why
            self._socket.sendall(msgspec.json.encode(ask) + b"\n")

    def receive(self) -> tuple[OutputPart, bytes]:
        """Return the next part; ask for more if that before was the last. Raises EOFError too."""
        if self._has_read_all:
            self._socket.sendall(MORE)
        line = self._lines.readline(MOST_OF_MESSAGE)
        if not line:
            raise EOFError
        try:
            part = msgspec.json.decode(line, type=OutputPart)
        except msgspec.DecodeError as error:
            raise NoOutput("what answers there is no listener of a dispatcher") from error
        content = self._lines.read(part.length)
        if len(content) < part.length:
            raise EOFError
        self._has_read_all = not content
        return part, content

    def close(self) -> None:
        with suppress(OSError):
            self._lines.close()
        self._socket.close()


def _reason(error: OSError | EOFError) -> str:
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "let [peers] authority name the authority that signed it"
        return f"its certificate is not trusted: {trust.reason_of(error)}; {remedy}"
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        remedy = "let [peers] certificate name one that its authority signed"
        return f"it does not trust this host: {trust.reason_of(error)}; {remedy}"
    return trust.reason_of(error)
