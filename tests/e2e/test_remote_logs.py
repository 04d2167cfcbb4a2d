"""`dispatcher logs` of a run on another node of a shared store."""

import re
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.helpers import shell
from tests.e2e.test_following import expect_text, following
from tests.e2e.world import Daemon, World
from tests.eventually import eventually
from tests.listeners import certified, free_port
from tests.postgres import Postgres

SCHEMA = "remote_logs"

TOKEN = "0123456789abcdef0123456789abcdef"


class Hosts:
    """Two worlds on one store: tasks run in `there`, and their output is read from `here`."""

    def __init__(self, here: World, there: World, postgres: Postgres, token: Path) -> None:
        self.here, self.there = here, there
        self._postgres = postgres
        self._store = {"url": postgres.url(), "schema": SCHEMA}
        self._token = {"token_file": str(token)}
        self.listen = f"localhost:{free_port()}"
        self.configure()

    def configure(self, *, here: bool = True, there: bool = True, **keys: object) -> None:
        """Write both files: whether `there` listens, and `here` has the token."""
        listener = {"listen": self.listen, **self._token, **keys} if there else {}
        self.there.configure(store=self._store, peers=listener)
        self.here.configure(store=self._store, peers={**self._token, **keys} if here else {})

    def part(self) -> None:
        """Let no file be found by the path in the store, as on hosts with disks of their own."""
        self._postgres.sql(
            f"UPDATE {SCHEMA}.runs SET output_path = replace(output_path, '/state/', '/elsewhere/')"
        )

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        with self.there.daemon(alone=False) as daemon:
            yield daemon

    def ran(self, script: str) -> int:
        """Run a shell there, and return the task's id."""
        with self.daemon():
            task_id = self.here.submit(*shell(script))
            self.here.cli("wait", task_id)
            self.part()
        return task_id


@pytest.fixture
def hosts(world: World, tmp_path: Path, bytecode: Path, postgres: Postgres) -> Iterator[Hosts]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    (directory := tmp_path / "there").mkdir()
    with closing(World(directory, bytecode)) as there:
        yield Hosts(world, there, postgres, token)
    postgres.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@pytest.mark.parametrize("keys", [{}, certified()], ids=["loopback", "TLS"])
def test_the_output_of_another_nodes_run_is_fetched(hosts: Hosts, keys: dict[str, str]) -> None:
    hosts.configure(**keys)
    with hosts.daemon() as daemon:
        task_id = hosts.here.submit(*shell("seq 100000"))
        hosts.here.cli("wait", task_id)
        hosts.part()
        daemon.expect("listener.started")

        whole = hosts.here.cli("logs", task_id)
        assert ("".join(f"{n}\n" for n in range(1, 100_001)), "") == (whole.stdout, whole.stderr)
        assert "99999\n100000\n" == hosts.here.cli("logs", task_id, "-n", "2").stdout
        run_id = hosts.here.show(task_id)["runs"][0]["id"]
        assert "100000\n" == hosts.here.cli("logs", task_id, "--run", run_id, "-n", "1").stdout
        assert not hosts.here.show(task_id)["runs"][0]["output_is_gone"]
        assert "(its node has the rest)" in hosts.here.cli("show", task_id).stdout


def test_a_follower_reads_on_across_a_reload_of_the_other_daemon(hosts: Hosts) -> None:
    with hosts.daemon() as daemon:
        task_id = hosts.here.submit(
            *shell(f"""
                echo one
                until test -e {hosts.there.directory}/go; do sleep 0.02; done
                echo two
            """)
        )
        daemon.expect("run.started")
        hosts.part()
        with following(hosts.here, "logs", "-f", task_id) as (process, out):
            expect_text(out, "one\n")
            hosts.there.cli("reload")
            eventually(lambda: _expect_starts(daemon, 2))
            (hosts.there.directory / "go").touch()
            assert 0 == process.wait()
            assert "one\ntwo\n" == out.read_text()


def _expect_starts(daemon: Daemon, times: int) -> None:
    assert times == len(daemon.events("listener.started"))


def test_without_a_listener_the_message_names_node_file_and_remedies(hosts: Hosts) -> None:
    hosts.configure(there=False)
    task_id = hosts.ran("echo one; echo two")

    shown = hosts.here.cli("logs", task_id, exits=1)

    assert "one\ntwo\n" == shown.stdout
    assert re.search(
        r"dispatcher: this was the end of the output:\n.*run 1 is on node \S+ \([0-9a-f-]{36}\),"
        r" and its output is there in .*/elsewhere/output/[0-9a-f]{32}\.log; that node does not"
        r" listen: run `dispatcher logs 1 --run 1` on that host, or let its configuration have"
        r" \[peers\] listen",
        shown.stderr,
    )


def test_of_an_open_run_without_a_listener_the_message_says_that_nothing_is_kept_yet(
    hosts: Hosts,
) -> None:
    hosts.configure(there=False)
    with hosts.daemon() as daemon:
        task_id = hosts.here.submit(
            *shell(f"echo one; until test -e {hosts.there.directory}/go; do sleep 0.02; done")
        )
        daemon.expect("run.started")
        hosts.part()

        shown = hosts.here.cli("logs", task_id, exits=1)
        (hosts.there.directory / "go").touch()
        hosts.here.cli("wait", task_id)

    assert "" == shown.stdout
    assert "the run is open: the store keeps the end of its output once it ends" in shown.stderr
    assert "[peers] listen" in shown.stderr


def test_a_file_that_is_here_needs_no_listener(hosts: Hosts) -> None:
    hosts.configure(there=False)
    with hosts.daemon():
        task_id = hosts.here.submit(*shell("echo here"))
        hosts.here.cli("wait", task_id)

    shown = hosts.here.cli("logs", task_id)
    assert ("here\n", "") == (shown.stdout, shown.stderr)


def test_a_run_without_output_needs_no_listener(hosts: Hosts) -> None:
    hosts.configure(there=False)
    task_id = hosts.ran("true")

    assert "" == hosts.here.cli("logs", task_id).stdout


def test_without_the_token_or_its_daemon_the_message_has_the_remedy(hosts: Hosts) -> None:
    hosts.configure(here=False)
    task_id = hosts.ran("echo here")

    without = hosts.here.cli("logs", task_id, exits=1).stderr
    assert "let [peers] token_file here name the file of its token, or run `disp" in without
    hosts.configure()
    gone = hosts.here.cli("logs", task_id, exits=1).stderr
    assert f"tcp://{hosts.listen} does not give it: Connection refused; run `dispatcher" in gone


def test_a_listener_that_hangs_or_cannot_listen_holds_up_no_task(hosts: Hosts) -> None:
    with hosts.daemon() as daemon:
        daemon.expect("listener.started")
        listener = _listener(daemon)
        listener.send_signal(signal.SIGSTOP)
        try:
            task_id = hosts.here.submit("true")
            assert 0 == hosts.here.cli("wait", task_id).exit_code
        finally:
            listener.send_signal(signal.SIGCONT)
        hosts.configure(listen="localhost:1", token_file="/nowhere/token")
        hosts.there.cli("reload")
        daemon.expect("listener.failed")

        failed = "other nodes cannot read output here: [peers] token_file /nowhere/token: No such"
        assert failed in hosts.there.cli("status").stdout
        assert 0 == hosts.here.cli("wait", hosts.here.submit("true")).exit_code


def test_a_listener_ends_with_a_daemon_that_is_killed(hosts: Hosts) -> None:
    with hosts.daemon() as daemon:
        daemon.expect("listener.started")
        listener = _listener(daemon)
        daemon.kill()

        def probe() -> None:
            assert not listener.is_running() or listener.status() == psutil.STATUS_ZOMBIE

        eventually(probe)


def _listener(daemon: Daemon) -> psutil.Process:
    (found,) = (
        child
        for child in psutil.Process(daemon.pid).children()
        if "dispatcher.peers.listener" in child.cmdline()
    )
    return found
