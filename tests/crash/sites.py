"""The calls at which daemon and executor leave their process, and how each is done by half."""

import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.launcher import EmbeddedLauncher
from dispatcher.executor.journal import Journal
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.server import Server
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from dispatcher.store.api import Store
from tests.crash.mortal import Act, Fate, Mortal, MortalStore


def _half_of_a_send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # nobody is there any more
        connection.send(data[: len(data) // 2])


def _half_of_a_flush(server: Server, at: float) -> None:
    with half_of_one_send():
        server.flush(at)


@contextmanager
def half_of_one_send() -> Iterator[None]:
    """Let the next bytes be sent by half, and none after them."""
    sends = [0]

    def halved(send: Callable[..., int]) -> Callable[..., int]:
        def send_half(peer: socket.socket, data: Any, *passed: Any) -> int:
            sends[0] += 1
            if sends[0] > 1:
                raise BlockingIOError
            (piece,) = data if passed else (data,)
            half = piece[: len(piece) // 2]
            return send(peer, [half], *passed) if passed else send(peer, half)

        return send_half

    with pytest.MonkeyPatch.context() as patched, suppress(OSError):
        patched.setattr(socket.socket, "send", halved(socket.socket.send))
        patched.setattr(socket, "send_fds", halved(socket.send_fds))
        yield


def _half_of_the_records(journal: Journal) -> None:
    before = os.path.getsize(journal.path)
    journal.flush()
    written = os.path.getsize(journal.path) - before
    os.truncate(journal.path, before + written // 2)


def _half_of_a_new_journal(journal: Journal, runs: object, at: float) -> None:
    Path(f"{journal.path}.new").write_bytes(b'{"event":"header"')


def _no_connection_waits(server: Server, ready: Collection[int], at: float) -> bool:
    door, *_ = server.names
    return door.socket.fileno() not in ready


def _nothing_received(server: Server, ready: Collection[int]) -> bool:
    peer = server._peer
    return server.all_read and (peer is None or peer.fileno() not in ready)


def _nothing_unsent(server: Server, at: float) -> bool:
    return server._peer is None or not (server._outbox or server._sending)


_STORE = {
    name: Act()
    for name in (
        "move_due",
        "claim",
        "record_started",
        "record_leader_exits",
        "heartbeat",
        "declare",
        "renew",
        "renew_short",
        "begin_endings",
        "settle",
        "record_node",
    )
}

_CLIENT = {
    "send": Act(),
    "receive": Act(),
    "reconnect": Act(),
    "flush": Act(idle=lambda client, at: not client.wants_to_write),
}

_CONNECTION = {"send": Act(_half_of_a_send)}

_LAUNCHER = {"ensure_running": Act()}

_KERNEL = {
    name: Act()
    for name in ("adopt", "exit_of", "reap", "reap_if_dead", "signal", "signal_group", "release")
}

_SPAWNER = {"start": Act()}

_OUTPUTS = {"open": Act()}

_JOURNAL = {
    "append": Act(),
    "flush": Act(_half_of_the_records, idle=lambda journal: not journal._lines),
    "rewrite": Act(_half_of_a_new_journal),
}

_SERVER = {
    "open": Act(),
    "accept": Act(idle=_no_connection_waits),
    "receive": Act(idle=_nothing_received),
    "send": Act(),
    "flush": Act(_half_of_a_flush, idle=_nothing_unsent),
}


def of_daemon() -> dict[str, bool]:
    """Return every site of the daemon, and whether its calls can be done by half."""
    return {
        **_named("store", {"begin": Act(), **_STORE, "commit": Act()}),
        **_named("client", {"connect": Act(), **_CLIENT}),
        **_named("connection", _CONNECTION),
        **_named("launcher", _LAUNCHER),
    }


def of_executor() -> dict[str, bool]:
    """Return every site of the executor, and whether its calls can be done by half."""
    return {
        **_named("kernel", _KERNEL),
        **_named("spawner", _SPAWNER),
        **_named("outputs", _OUTPUTS),
        **_named("journal", _JOURNAL),
        **_named("server", _SERVER),
    }


def _named(label: str, acts: Mapping[str, Act]) -> dict[str, bool]:
    return {f"{label}.{name}": act.half is not None for name, act in acts.items()}


# The daemon's ------------------------------------------------------------------------------


def mortal_store(store: Store, fate: Fate) -> Any:
    return MortalStore(store, fate, "store", _STORE)


def mortal_client(client: ExecutorClient, fate: Fate) -> Any:
    return Mortal(client, fate, "client", _CLIENT)


def mortal_connect(connect: Callable[[], socket.socket], fate: Fate) -> Any:
    def connected() -> Any:
        connection = fate.meet("client.connect", connect)
        return Mortal(connection, fate, "connection", _CONNECTION)

    return connected


def mortal_launcher(launcher: EmbeddedLauncher, fate: Fate) -> Any:
    return Mortal(launcher, fate, "launcher", _LAUNCHER)


# The executor's ----------------------------------------------------------------------------


def mortal_kernel(kernel: Kernel, fate: Fate) -> Any:
    return Mortal(kernel, fate, "kernel", _KERNEL)


def mortal_spawner(spawner: Spawner, fate: Fate) -> Any:
    return Mortal(spawner, fate, "spawner", _SPAWNER)


def mortal_outputs(outputs: OutputFiles, fate: Fate) -> Any:
    return Mortal(outputs, fate, "outputs", _OUTPUTS)


def mortal_journal(journal: Journal, fate: Fate) -> Any:
    return Mortal(journal, fate, "journal", _JOURNAL)


def mortal_server(server: Server, fate: Fate) -> Any:
    return Mortal(server, fate, "server", _SERVER)
