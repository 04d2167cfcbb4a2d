"""An executor in a world of its own, as a process; whatever it started is gone afterwards."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from dispatcher import wire
from tests.crash.family import Family
from tests.eventually import eventually
from tests.executor.daemon import Daemon


class Home:
    """A node's directories and the executors that were started on them."""

    def __init__(self, directory: Path) -> None:
        self.node_id = secrets.token_hex(16)  # each test's own: a node has one executor on a host
        self.state_dir = directory / "state"
        self.runtime_dir = directory / "run"
        self.outputs = directory / "output"
        self.outputs.mkdir()
        self.log = directory / "executor.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._daemons: list[Daemon] = []

    @property
    def journal(self) -> Path:
        return self.state_dir / "executor.journal"

    def output(self, name: str = "out") -> Path:
        return self.outputs / f"{name}.log"

    def expect_ready(self) -> None:
        """Wait until a run has printed "ready"."""

        def ready() -> None:
            assert self.output().exists()
            assert "ready\n" == self.output().read_text()

        eventually(ready)

    def executor(
        self, *options: str, env: dict[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[bytes]:
        """Start an executor; connections wait until it is ready."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dispatcher.executor"),
                    *("--state-dir", str(self.state_dir), "--runtime-dir", str(self.runtime_dir)),
                    *("--node-id", self.node_id, *options),
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                **how,
            )
        self.processes.append(process)
        return process

    def daemon(self, *, greet: bool = True) -> Daemon:
        """Connect to the executor that is starting or running."""

        def connect() -> Daemon:
            try:
                return Daemon(self.runtime_dir, greet=greet)
            except (FileNotFoundError, ConnectionError) as error:
                raise AssertionError(str(error)) from error

        daemon = eventually(connect)
        self._daemons.append(daemon)
        return daemon

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep the latest executor from doing anything, as if it were busy."""
        process = self.processes[-1]
        process.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what the executors have logged under this name."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.close()
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def _home() -> Iterator[Home]:
    family = Family()
    directory = Path(tempfile.mkdtemp(prefix="executor-"))
    home = Home(directory)
    try:
        yield home
    finally:
        home.close()
        sys.stdout.write(home.log.read_text() if home.log.exists() else "")  # shown with a failure
        if failed := home.events("executor.failed"):
            raise AssertionError(failed[0]["error"])
        family.end()
        shutil.rmtree(directory)


@pytest.fixture
def own() -> Iterator[Home]:
    """A home without an executor, where the module's others may share one."""
    with _home() as home:
        yield home


@pytest.fixture
def home(own: Home) -> Home:
    return own


@pytest.fixture
def daemon(home: Home) -> Daemon:
    """A daemon connected to a fresh executor."""
    home.executor()
    return home.daemon()


# For modules whose tests do not care what an executor did before ---------------------------


@pytest.fixture(scope="module")
def home_of_all() -> Iterator[Home]:
    """The home of an executor that the tests of a module share."""
    with _home() as home:
        home.executor()
        yield home


@pytest.fixture
def shared(home_of_all: Home) -> Home:
    """The shared home, with outputs of this test's own."""
    home = copy(home_of_all)
    home.outputs = Path(tempfile.mkdtemp(dir=home.outputs))
    return home


@pytest.fixture
def next_daemon(shared: Home) -> Daemon:
    """A daemon connected to the shared executor, which has no run of an earlier test."""
    daemon = shared.daemon()
    for uid, run in daemon.runs.items():
        if run.state is not wire.RunState.GONE:
            daemon.send(wire.End(uid=wire.RunUid(uid), reason="released", at_once=True))
            daemon.expect(wire.Exited, uid)
        daemon.send(wire.Forget(uid=wire.RunUid(uid)))
    daemon.ping()
    daemon.runs.clear()
    return daemon
