"""Three nodes and a server, each on a host of its own, and tasks whose workers lock a file."""

import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from tests.e2e.helpers import shell
from tests.e2e.world import Daemon, World
from tests.eventually import eventually
from tests.system.hosts.network import Network
from tests.system.hosts.server import NetworkServer, url_of
from tests.system.places import Entered, Namespace

NODES = (1, 2, 3)
SERVERS = (10, 11)

#: Seconds for which runs go on unconfirmed; 2 s, the kill grace and the margin follow.
LIMIT = 5.0
GRACE = 0.5
MARGIN = 3.0

SLOTS = 3

SCHEMA = "dispatcher"

TIMES = {
    "node": {"slots": SLOTS},
    "executor": {"absence_limit": f"{LIMIT:g}s"},
    "leases": {"takeover_margin": f"{MARGIN:g}s", "kill_grace": "500ms"},
    "logs": {"level": "info"},
}

#: The tree of a worker holds the lock of its task's file: one that finds it held is a twin. It
#: ignores the first signal.
WORKER = """\
trap '' TERM
exec 9> "$0/lock-$DISPATCHER_TASK_ID"
flock --nonblock 9 || { echo "$DISPATCHER_TASK_ID $DISPATCHER_FENCE" >> "$0/twins"; exit 1; }
echo "$DISPATCHER_FENCE" >> "$0/began-$DISPATCHER_TASK_ID"
"""
#: A worker without a lock: it stamps while it lives, so that it is seen how long it does.
STAMPS = """\
trap '' TERM
echo "$DISPATCHER_FENCE" >> "$0/began-$DISPATCHER_TASK_ID"
until [ -e "$0/go" ]; do
    echo "$DISPATCHER_FENCE" >> "$0/stamps-$DISPATCHER_TASK_ID"
    sleep 0.01
done
"""
WAITS = 'until [ -e "$0/go" ]; do sleep 0.1; done\n'


class TwinsError(Exception):
    """Two trees of a task lived at one instant: no wait mends that."""


class HostsWorld(World):
    """A world whose commands run on a host, which may end and boot again."""

    def process_of(self, command: list[str], **how: Any) -> "subprocess.Popen[bytes]":
        return Entered(command, **how)


class Node:
    """A daemon, its executor and its workers on a host."""

    def __init__(
        self, number: int, world: HostsWorld, network: Network, elsewhere: Sequence[Path]
    ) -> None:
        """`elsewhere`: directories that are on the disks of other hosts."""
        self.number, self.world, self._network = number, world, network
        self._elsewhere = elsewhere
        self.namespace = Namespace(network=True)
        self.daemon: Daemon | None = None
        self._stack = ExitStack()

    @property
    def id(self) -> str:
        return (self.world.state_dir / "node-id").read_text("utf-8").strip()

    def boot(self) -> None:
        """Start the host, and on it the daemon."""
        self._stack = ExitStack()
        self.namespace = Namespace(network=True)
        self._stack.enter_context(self.namespace)
        for directory in self._elsewhere:
            self.namespace.run("mount", "-t", "tmpfs", "none", str(directory))
        self._network.connect(self.number, self.namespace)
        self.world.prefix = (*self.namespace.prefix, f"--wdns={self.world.directory}")
        self.daemon = self._stack.enter_context(self.world.daemon(alone=False))

    def lose_power(self) -> None:
        """End every process on it at once."""
        self.namespace.__exit__()
        self._network.disconnect(self.number)
        self._stack.close()

    def shut_down(self) -> None:
        with suppress(AssertionError):
            self._stack.close()

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        """Stop its processes whose command lines have one of these words; without, all of them."""
        processes = [one for one in self.namespace.processes() if _is_named(one, names)]
        assert processes
        try:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGSTOP)
            yield
        finally:
            assert self.daemon is not None
            os.kill(self.daemon.process.pid, signal.SIGCONT)  # nsenter stops with its command
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)


def _is_named(process: psutil.Process, names: tuple[str, ...]) -> bool:
    with suppress(psutil.Error):
        line = process.cmdline()
        return not names or any(name in line for name in names)
    return False


class Lab:
    """A context manager."""

    def __init__(self, directory: Path, bytecode: Path, server_files: Path) -> None:
        self._directory, self._bytecode, self._server_files = directory, bytecode, server_files
        self._stack = ExitStack()
        self._numbers = itertools.count(1)
        self.network = Network()
        self.nodes: list[Node] = []
        self._servers: dict[int, Namespace] = {}
        self.files = directory
        """Of the present round."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.network)
            self._stack = stack
            for host in SERVERS:
                self._servers[host] = stack.enter_context(Namespace(network=True))
                self.network.connect(host, self._servers[host])
            server = self._add_server(SERVERS[0])
            server.make(self._server_files)
            server.let_in()
            (at := self._directory / "operator").mkdir()
            self.operator = stack.enter_context(closing(World(at, self._bytecode)))
            self._use(server.start())
            homes = {number: self._directory / f"node-{number}" for number in NODES}
            for home in homes.values():
                home.mkdir()
            for number in NODES:
                self._add_node(number, homes)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.shut_down()
        self._stack.close()

    def _add_server(self, host: int) -> NetworkServer:
        return self._stack.enter_context(
            closing(NetworkServer(host, self._servers[host], self.network))
        )

    def fail_over(self, *, forgotten: Callable[[], object]) -> None:
        """Let a replica take over that lacks what happens in `forgotten`."""
        old = self.server
        (spare,) = set(SERVERS) - {old.host}
        replica = self._add_server(spare)
        replica.copy(old)
        replica.start()
        replica.catch_up(old)
        replica.detach()
        forgotten()
        old.stop(signal.SIGQUIT)
        replica.promote()
        self._use(replica)

    def _use(self, server: NetworkServer) -> None:
        self.server = server
        self.operator.configure(store={"url": server.url(), "schema": SCHEMA})

    def _add_node(self, number: int, homes: Mapping[int, Path]) -> None:
        world = HostsWorld(homes[number], self._bytecode)
        self._stack.enter_context(closing(world))
        world.configure(
            store={"url": url_of(map(Network.address, SERVERS)), "schema": SCHEMA}, **TIMES
        )
        elsewhere = [home for other, home in homes.items() if other != number]
        self.nodes.append(node := Node(number, world, self.network, elsewhere))
        node.boot()

    def begin_round(self) -> None:
        self.files = self._directory / f"round-{next(self._numbers)}"
        self.files.mkdir()

    def submit(self, *scripts: str, **options: str) -> int:
        return self.operator.submit(*shell("".join([WORKER, *scripts])), str(self.files), **options)

    def submit_stamping(self) -> int:
        return self.operator.submit(*shell(STAMPS), str(self.files))

    def stamps(self, task: int, *, fence: int) -> int:
        """Return how many stamps the run of a task with this fence has left."""
        return (self.files / f"stamps-{task}").read_text().split().count(str(fence))

    def let_end(self) -> None:
        (self.files / "go").touch()

    def begun(self, task: int) -> list[int]:
        """Return the fences of a task's runs whose workers began, in that order."""
        file = self.files / f"began-{task}"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def until_begun(self, task: int, runs: int) -> None:
        def probe() -> None:
            self.refuse_twins()
            assert len(self.begun(task)) >= runs, (task, self.runs(task))

        eventually(probe, every=0.1, patience=120)

    def refuse_twins(self) -> None:
        """Raise `TwinsError` if a worker has found the lock of its task held."""
        if (twins := self.files / "twins").exists():
            raise TwinsError(twins.read_text())

    def runs(self, task: int) -> list[dict[str, Any]]:
        names = ("outcome", "node", "fence", "claimed_at", "takeover_at")
        rows = self.server.sql(
            f"SELECT {', '.join(names)} FROM {SCHEMA}.runs WHERE task_id = {task} ORDER BY id"
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def until_finished(self, *tasks: int) -> None:
        def probe() -> None:
            ids = ", ".join(map(str, tasks))
            rows = self.server.sql(
                f"SELECT id, state, reason FROM {SCHEMA}.tasks"
                f" WHERE id IN ({ids}) AND state <> 'succeeded'"
            )
            assert [] == rows

        eventually(probe, every=0.2, patience=180)

    def node_of(self, task: int) -> Node:
        (owner,) = {run["node"] for run in self.runs(task) if run["outcome"] is None}
        return next(node for node in self.nodes if node.id == owner)
