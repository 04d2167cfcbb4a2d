"""Two daemons that share a server: one is cut off from it, stands still, or the server is down."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.helpers import expect_dead, shell
from tests.e2e.world import Daemon, World
from tests.eventually import PATIENCE, eventually, let_pass
from tests.postgres import Postgres
from tests.road import Road, Way

SCHEMA = "hosts"

#: Seconds for which runs go on unconfirmed, and 2 s more. The least that a server's store allows.
LIMIT = 2.0
SLACK = 2.0

#: The lock that a worker's tree holds on a file of its task; one that finds it held is a twin.
LOCKED = """\
exec 9> "$0/lock-$DISPATCHER_TASK_ID"
flock --nonblock 9 || { echo "$DISPATCHER_TASK_ID" >> "$0/twins"; exit 1; }
echo "$DISPATCHER_FENCE" >> "$0/began-$DISPATCHER_TASK_ID"
"""

#: A worker that ignores the first signal, and ends once there is a file for its fence.
WAITS = """trap '' TERM
until [ -e "$0/go-$DISPATCHER_FENCE" ]; do sleep 0.05; done
"""


@dataclass
class Hosts:
    """Two worlds; workers of both use one directory."""

    here: World
    there: World
    road: Road
    """From `there` to the server."""
    server: Postgres
    directory: Path

    def configure(self, *, limit: float = LIMIT) -> None:
        times = {
            "executor": {"absence_limit": f"{limit:g}s"},
            "leases": {"takeover_margin": "3s"},
            "node": {"slots": 1},
        }
        for world, url in ((self.here, self.server.url()), (self.there, self.road.url())):
            world.configure(store={"url": url, "schema": SCHEMA}, **times)

    def submit(self, *scripts: str, **options: str | int) -> int:
        command = shell("".join([LOCKED, *scripts]))
        return self.here.submit(*command, str(self.directory), **options)

    def let_end(self, fence: int) -> None:
        """Let workers with this fence exit."""
        (self.directory / f"go-{fence}").touch()

    def runs(self, task: int) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.here.show(task)["runs"]
        return runs

    def outcomes(self, task: int) -> list[str | None]:
        return [run["outcome"] for run in self.runs(task)]

    def until(self, task: int, *outcomes: str | None) -> None:
        """Wait until the runs of a task have these outcomes."""

        def probe() -> None:
            assert [*outcomes] == self.outcomes(task)

        eventually(probe, every=0.2)

    def until_begun(self, task: int, *fences: int) -> None:
        def probe() -> None:
            file = self.directory / f"began-{task}"
            assert file.exists()
            assert [str(fence) for fence in fences] == file.read_text().split()

        eventually(probe)


@pytest.fixture
def hosts(postgres: Postgres, world: World, tmp_path: Path, bytecode: Path) -> Iterator[Hosts]:
    (files := tmp_path / "files").mkdir()
    (away := tmp_path / "there").mkdir()
    with (
        closing(World(away, bytecode)) as there,
        Road(f"{postgres.directory}/.s.PGSQL.5432").running() as road,
    ):
        hosts = Hosts(world, there, road, postgres, files)
        hosts.configure()
        yield hosts
        assert not (files / "twins").exists(), (files / "twins").read_text()
    postgres.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@contextmanager
def cut(hosts: Hosts, _daemon: Daemon, way: Way) -> Iterator[None]:
    hosts.road.cut(way)
    yield
    hosts.road.open()


@contextmanager
def stopped(hosts: Hosts, daemon: Daemon, _way: Way) -> Iterator[None]:
    daemon.signal(signal.SIGSTOP)
    yield
    daemon.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("silence", "way"),
    [(cut, Way.BOTH), (cut, Way.BACK), (stopped, Way.NONE)],
    ids=["cut both ways", "cut one way", "daemon stopped"],
)
def test_r85_a_silent_nodes_task_is_run_by_another_and_the_node_goes_on_when_it_is_back(
    hosts: Hosts, silence: Callable[..., Any], way: Way
) -> None:
    with hosts.there.daemon(alone=False) as there:
        task = hosts.submit(WAITS)
        hosts.until_begun(task, 1)
        with hosts.here.daemon(alone=False) as here:
            with silence(hosts, there, way):
                hosts.until_begun(task, 1, 2)
                taken = here.expect("claim.taken_over", task_id=task)
            lost = there.expect("claim.lost", task_id=task)
            assert (1, 1) == (taken["fence"], lost["fence"])
            assert ["orphaned", None] == hosts.outcomes(task)

            later = hosts.submit()  # for the one that has a free slot
            hosts.until(later, "succeeded")
            hosts.let_end(2)
            hosts.until(task, "orphaned", "succeeded")

    nodes = [run["node"] for run in hosts.runs(task)]
    assert [nodes[0]] == [run["node"] for run in hosts.runs(later)]
    assert nodes[0] != nodes[1]


def test_what_ends_while_a_node_is_cut_off_for_seconds_is_recorded_by_it(hosts: Hosts) -> None:
    with hosts.there.daemon(alone=False) as there, hosts.here.daemon(alone=False):
        tasks = [hosts.submit(WAITS) for _ in range(2)]
        for task in tasks:
            hosts.until_begun(task, 1)

        hosts.road.cut()
        hosts.let_end(1)
        there.expect("store.unavailable")
        hosts.road.open()

        for task in tasks:
            hosts.until(task, "succeeded")
    assert [] == there.events("claim.lost")


def test_what_ends_while_neither_daemon_nor_server_is_there_is_recorded_by_the_next_daemon(
    hosts: Hosts,
) -> None:
    hosts.configure(limit=PATIENCE)
    with hosts.there.daemon(alone=False) as there:
        task = hosts.submit(WAITS)
        hosts.until_begun(task, 1)
        worker = psutil.Process(there.expect("run.started", task_id=task)["pid"])
        hosts.road.cut()
        there.expect("store.unavailable")
        there.kill()
        hosts.let_end(1)
        expect_dead(worker)
        hosts.road.open()

    with hosts.there.daemon(alone=False):
        hosts.until(task, "succeeded")


def test_a_server_that_stands_still_for_longer_than_runs_may_go_on_costs_each_run_once(
    hosts: Hosts, postgres: Postgres
) -> None:
    with hosts.there.daemon(alone=False) as there, hosts.here.daemon(alone=False) as here:
        tasks = [hosts.submit(WAITS) for _ in range(2)]
        for task in tasks:
            hosts.until_begun(task, 1)

        with postgres.frozen():
            let_pass(LIMIT + SLACK + 1.5)  # the kill grace is half a second
        for daemon in (here, there):
            daemon.expect("store.recovered")
        hosts.let_end(2)

        for task in tasks:
            hosts.until(task, "orphaned", "succeeded")
    nodes = [[run["node"] for run in hosts.runs(task)] for task in tasks]
    assert 2 == len({first for first, _ in nodes})


def test_a_reset_of_all_connections_disturbs_no_run(hosts: Hosts) -> None:
    with hosts.there.daemon(alone=False), hosts.here.daemon(alone=False):
        tasks = [hosts.submit(WAITS) for _ in range(2)]
        for task in tasks:
            hosts.until_begun(task, 1)

        for _ in range(5):
            hosts.road.reset()
            let_pass(LIMIT / 4)  # in which it confirms
        hosts.let_end(1)

        for task in tasks:
            hosts.until(task, "succeeded")
