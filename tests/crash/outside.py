"""Daemon and executor as processes of their own, on a stage's directories, and killed for real."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dispatcher import times
from dispatcher.host.node import node_id
from tests.crash.stage import Stage
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
DISPATCHER = str(Path(sys.executable).with_name("dispatcher"))

_CONFIG = """
[node]
state_dir = "{state_dir}"
runtime_dir = "{runtime_dir}"
slots = 4
[daemon]
poll = "20ms"
drain_timeout = "0s"
[leases]
kill_grace = "0s"
exit_grace = "0s"
leftover_grace = "0s"
[retry]
backoff_min = "2ms"
backoff_max = "2ms"
cooldown = "2ms"
[logs]
format = "json"
"""


class Outside:
    """Processes outside the test process. Everything ends with the stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        place = stage.place
        stage.boot_id = times.boot_id()
        self.node = node_id(place.state_dir)
        self.log = stage.directory / "log"
        self._config = stage.directory / "dispatcher.toml"
        self._config.write_text(
            _CONFIG.format(state_dir=place.state_dir, runtime_dir=place.runtime_dir), "utf-8"
        )

    @contextmanager
    def daemon(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `dispatcher run`."""
        with self._running(DISPATCHER, "run", *arguments, "--config", str(self._config)) as daemon:
            yield daemon

    @contextmanager
    def mortal_daemon(self, point: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a daemon that kills itself at one call."""
        module = (sys.executable, "-m", "tests.crash.daemon")
        with self._running(*module, "--config", str(self._config), "--die", point) as daemon:
            yield daemon

    @contextmanager
    def mortal_executor(self, point: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run an executor that kills itself at one call, and wait until it holds its lock."""
        place = self.stage.place
        module = (sys.executable, "-m", "tests.crash.executor")
        directories = ("--state-dir", str(place.state_dir), "--runtime-dir", str(place.runtime_dir))
        with self._running(
            *module, *directories, "--node-id", self.node, "--die", point
        ) as executor:
            self.wait_for(lambda: self._is_listening() or executor.poll() is not None)
            yield executor

    def drain(self, operate: Callable[[], object] = lambda: None) -> None:
        """Run `dispatcher run --drain` to its end."""
        with self.daemon("--drain") as daemon:
            self.wait_for(lambda: daemon.poll() is not None, operate)
            assert 0 == daemon.returncode, self.log.read_text()

    def wait_for(
        self,
        condition: Callable[[], object],
        operate: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait until a condition holds, and do meanwhile what an operator would."""

        def probe() -> None:
            operate()
            assert condition()

        try:
            eventually(probe, every=0.005)
        except AssertionError:
            raise AssertionError(f"waited in vain:\n{self.log.read_text()}") from None

    # What the daemons logged ---------------------------------------------------------------

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what all daemons logged of one event, in whole lines."""
        lines = self.log.read_text("utf-8", "replace").splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n") and line[0] == "{"]
        return [event for event in events if event["event"] == name]

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def signal_executor(self, signum: signal.Signals) -> None:
        """Signal the executor to which a daemon connected last."""
        self.wait_for(lambda: self.events("executor.connected"))
        pid = self.events("executor.connected")[-1]["executor_pid"]
        handle = os.pidfd_open(pid)
        try:
            assert pid in self.stage.family.living()
            signal.pidfd_send_signal(handle, signum)
        finally:
            os.close(handle)

    def _is_listening(self) -> bool:
        return (self.stage.place.runtime_dir / "executor.sock").exists()

    @contextmanager
    def _running(
        self, *command: str, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(self.stage.directory), **(env or {})},
                cwd=ROOT,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def was_killed(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() == -signal.SIGKILL
