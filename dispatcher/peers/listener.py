"""The process that gives the output of a node's runs to other nodes.

It is a child of the daemon (ADR 25), which writes the settings into its stdin and keeps that open:
the process ends with the daemon, however that went. It knows no store.
"""

import os
import selectors
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import msgspec

from dispatcher.config.peer_settings import PeersSection
from dispatcher.errors import ConfigError
from dispatcher.exit_codes import ExitCode
from dispatcher.host import addresses
from dispatcher.host.output_files import NAME
from dispatcher.host.run_output import RunOutput
from dispatcher.peers import trust
from dispatcher.peers.contract import (
    MORE,
    MOST_OF_MESSAGE,
    PATIENCE,
    VERSION,
    Ask,
    ListenerReport,
    OutputPart,
)
from dispatcher.times import NEVER, Instant, instant

#: Connections at once; each has a thread.
MOST_CONNECTIONS = 64

#: Seconds in which a peer must have shown the token.
PROOF_WITHIN = 10.0

#: The least seconds between two looks for peers that have not.
SWEEP_INTERVAL = 0.1

#: Seconds between two reports of refusals.
REPORT_INTERVAL = 1.0


class Refusal(Exception):
    """A peer gets no output: send it the reason, and report it."""


class OutputServer:
    """Accepts connections, and answers each in a thread of its own."""

    def __init__(
        self,
        peers: PeersSection,
        *,
        output_dir: str,
        budget: int,
        report: Callable[[ListenerReport], object],
        proof_within: float = PROOF_WITHIN,
    ) -> None:
        """Listen; `budget` is that of a run's output, in bytes. Raises `ConfigError`."""
        assert peers.listen is not None
        assert peers.token_file is not None
        self._output_dir = output_dir
        self._budget = budget
        self._write = report
        self._proof_within = proof_within
        self._token = trust.token(peers.token_file)
        self._context = trust.listener_context(peers)
        self._socket = _bound(peers.listen)
        self._socket.setblocking(False)
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, Instant] = {}
        """Until when each peer must have shown the token."""
        self._reported_at = Instant(0.0)

    def serve(self, lifeline: BinaryIO) -> None:
        """Serve until the lifeline ends."""
        with selectors.DefaultSelector() as selector, self._socket:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(lifeline, selectors.EVENT_READ)
            self._write(ListenerReport(ready=True))
            while lifeline not in {key.fileobj for key, _ in selector.select(self._longest())}:
                self._accept()
                self._end_overdue(instant())
        self._end_overdue(NEVER)

    def _longest(self) -> float | None:
        """Return for how many seconds to wait; None: until somebody connects."""
        with self._lock:
            due = min(self._connections.values(), default=NEVER)
        return None if due == NEVER else max(SWEEP_INTERVAL, due - instant())

    def _accept(self) -> None:
        try:
            connection, found = self._socket.accept()
        except OSError:  # there is none, or it is gone again
            return
        peer = str(addresses.Address(*found[:2]))
        with self._lock:
            is_full = len(self._connections) >= MOST_CONNECTIONS
        if is_full:
            self._report(peer, f"{MOST_CONNECTIONS} connections are open")
            connection.close()
            return
        connection.settimeout(PATIENCE)
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            with self._lock:
                self._connections[connection] = Instant(instant() + self._proof_within)
            threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()
        except (OSError, RuntimeError) as error:  # it is gone again, or there is no thread for it
            self._forget(connection)
            self._report(peer, str(error))

    def _end_overdue(self, at: Instant) -> None:
        with self._lock:
            overdue = [one for one, until in self._connections.items() if at >= until]
        for connection in overdue:
            with suppress(OSError):
                # Of the socket below TLS, which its thread may be using.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            with connection.makefile("rb") as lines:
                self._answer(connection, lines)
        except Refusal as refusal:
            self._report(peer, str(refusal))
            with suppress(OSError):
                connection.sendall(_line(OutputPart(refused=str(refusal))))
        except OSError as error:
            self._report_if_unproved(connection, peer, error)
        finally:
            self._forget(connection)

    def _answer(self, connection: socket.socket, lines: BinaryIO) -> None:
        """Send the output that a peer asks for, and more of it while it does. Raises `Refusal`."""
        ask = self._checked(lines.readline(MOST_OF_MESSAGE))
        with self._lock:
            self._connections[connection] = NEVER
        path, budget = f"{self._output_dir}/{ask.uid}.log", self._budget
        with RunOutput(path, budget=budget, tail=ask.tail, offset=ask.offset) as output:
            more = MORE
            while more == MORE:
                _send_present(connection, output)
                more = lines.readline(len(MORE))

    def _checked(self, line: bytes) -> Ask:
        try:
            ask = msgspec.json.decode(line, type=Ask)
        except msgspec.DecodeError:
            raise Refusal("this listener gives output to `dispatcher logs` alone") from None
        if not trust.is_token(ask.token, self._token):
            raise Refusal("the token is not that of this node")
        if ask.version != VERSION:
            raise Refusal(f"the listener has version {VERSION} of the protocol, not {ask.version}")
        if not NAME.fullmatch(f"{ask.uid}.log") or ask.offset < 0 or (ask.tail or 0) < 0:
            raise Refusal("that is no output of a run")
        return ask

    def _report_if_unproved(self, connection: socket.socket, peer: str, error: OSError) -> None:
        with self._lock:
            has_proved = self._connections.get(connection) == NEVER
        if not has_proved:
            self._report(peer, f"no request came: {trust.reason_of(error)}")

    def _report(self, peer: str, why: str) -> None:
        """Report a refusal to the daemon, at most one in an interval: anybody may knock."""
        at = instant()
        with self._lock:
            if at < self._reported_at + REPORT_INTERVAL:
                return
            self._reported_at = at
        self._write(ListenerReport(peer=peer.rpartition(":")[0], refused=why))

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)
        connection.close()


def _send_present(connection: socket.socket, output: RunOutput) -> None:
    """Send all that is there now. Raises `Refusal` for a file that cannot be read."""
    chunk = b"-"
    while chunk:
        try:
            chunk = output.read()
        except OSError as error:
            raise Refusal(f"its file cannot be read: {error.strerror}") from error
        part = OutputPart(
            length=len(chunk),
            offset=output.offset,
            exists=output.exists(),
            dropped=output.dropped,
            holes=output.holes,
            truncated=output.truncated,
        )
        output.dropped = output.holes = output.truncated = 0
        connection.sendall(_line(part) + chunk)


def _line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _bound(listen: str) -> socket.socket:
    """Return a socket that listens at an address. Raises `ConfigError`."""
    address = addresses.parse(listen)
    try:
        family, *_, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        return socket.create_server(
            place[:2],
            family=family,
            backlog=MOST_CONNECTIONS,
            dualstack_ipv6=family == socket.AF_INET6 and address.is_any,
        )
    except OSError as error:
        remedy = "let [peers] listen name an address of this host and a free port"
        raise ConfigError(
            f"cannot listen at {listen}: {trust.reason_of(error)}; {remedy}"
        ) from error


def _write(report: ListenerReport) -> None:
    with suppress(OSError):  # a daemon that is stopped reads nothing
        os.write(sys.stdout.fileno(), _line(report))


def main() -> int:
    """Read `[peers]` from stdin, and give the outputs of a directory away until that ends."""
    output_dir, budget = sys.argv[1:]
    peers = msgspec.json.decode(sys.stdin.buffer.readline(), type=PeersSection)
    os.set_blocking(sys.stdout.fileno(), False)
    try:
        server = OutputServer(peers, output_dir=output_dir, budget=int(budget), report=_write)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    server.serve(sys.stdin.buffer)
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
