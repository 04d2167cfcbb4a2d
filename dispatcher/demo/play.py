"""The play in two acts, between which the daemon is killed with SIGKILL."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from dispatcher.client import Client
from dispatcher.config.config import load
from dispatcher.demo.cast import Part
from dispatcher.demo.files import SLOW, Job
from dispatcher.demo.screen import DemoFailed, Screen, TaskRow
from dispatcher.model import Run, Task, TaskState
from dispatcher.overview import Status
from dispatcher.submission import TaskOptions

CONFIG = """\
[node]
state_dir = "{where}/state"
runtime_dir = "{where}/run"
slots = 12
[daemon]
poll = "200ms"
[leases]
kill_grace = "500ms"
[retry]
backoff_min = "300ms"
backoff_max = "1s"
cooldown = "500ms"
[logs]
format = "json"
"""

#: Seconds between two looks at the store, and of the whole demo before it gives up.
LOOK = 0.1
PATIENCE = 120.0

_FINISHED = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.HELD)


class Play:
    """A temporary dispatcher, its tasks, and its processes."""

    def __init__(self, job: Job, parts: Sequence[Part], where: Path, screen: Screen) -> None:
        self._job = job
        self._parts = parts
        self._where = where
        self._screen = screen
        self._config_file = where / "dispatcher.toml"
        self._config_file.write_text(CONFIG.format(where=where), "utf-8")
        self.client = Client(load(str(self._config_file)))
        self.files: list[int] = []
        self.roles: list[int] = []
        self.executor: psutil.Process | None = None

    def perform(self) -> None:
        """Submit everything, kill the daemon in the middle, and let another finish."""
        self._submit()
        half = len(self._job) // 2
        with self._daemon() as daemon:
            self._watch(daemon, lambda settled, running: settled >= half and running > 0)
            daemon.kill()
            daemon.wait()
        settled, running = self._counts(self.client.status())
        self._screen.write(
            f"killed the daemon (SIGKILL): {settled} files settled, {running} still running"
        )
        with self._daemon("--drain") as daemon:
            self._screen.write("started it again, to run until no work is left")
            self._watch(daemon, lambda *_: False)

    def task(self, task_id: int) -> Task:
        task = self.client.task(task_id)
        if task is None:
            raise DemoFailed(f"task {task_id} has disappeared")
        return task

    def _submit(self) -> None:
        for command in self._job.commands():
            self.files.append(self.client.submit(command=command, queue="files").task_id)
        for part in self._parts:
            options: TaskOptions = {**part.options, "queue": "cast"}
            self.roles.append(self.client.submit(command=part.command, **options).task_id)
        self._screen.write(
            f"submitted {len(self.files)} files to compress, {SLOW} of them slow,"
            f" and {len(self.roles)} workers that misbehave"
        )

    def _watch(self, daemon: subprocess.Popen[bytes], until: Callable[[int, int], object]) -> None:
        """Show the tasks until a condition on (settled, running) is true or the drain ends."""
        for _ in range(int(PATIENCE / LOOK)):
            status = self.client.status()
            self._remember_executor(status)
            self._screen.show(self._rows(status))
            if until(*self._counts(status)):
                return
            with suppress(subprocess.TimeoutExpired):
                if daemon.wait(LOOK) != 0:
                    raise DemoFailed(f"the daemon ended:\n{self._log()}")
                self._screen.show(self._rows(self.client.status()))
                return
        raise DemoFailed(f"not done after {PATIENCE:.0f} s:\n{self._log()}")

    @contextmanager
    def _daemon(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-P", "-m", "dispatcher", "run", *options]
        with (self._where / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [*command, "--config", str(self._config_file)], stdout=log, stderr=log
            )
        try:
            yield daemon
        except BaseException:
            daemon.kill()
            daemon.wait()
            if self.executor is not None:
                with suppress(psutil.NoSuchProcess):
                    self.executor.terminate()  # it ends its workers first
                    self.executor.wait(10)
            raise

    def _remember_executor(self, status: Status) -> None:
        report = status.standing.report
        if self.executor is None and report is not None and report.executor_pid is not None:
            with suppress(psutil.NoSuchProcess):
                self.executor = psutil.Process(report.executor_pid)

    @staticmethod
    def _counts(status: Status) -> tuple[int, int]:
        counts = status.counts.get("files", {})
        return sum(counts.get(s, 0) for s in _FINISHED), counts.get(TaskState.RUNNING, 0)

    def _rows(self, status: Status) -> list[TaskRow]:
        settled, running = self._counts(status)
        state = f"{settled} of {len(self.files)} settled"
        quarter = str(4 * settled // len(self.files))
        now = f"{running} running" if running else ""
        rows = [TaskRow("files", "are compressed, each once", state, now, news=quarter)]
        for part, task_id in zip(self._parts, self.roles, strict=True):
            runs = ", ".join(map(_so_far, self.client.runs(task_id)))
            rows.append(TaskRow(part.name, part.does, self.task(task_id).state, runs))
        return rows

    def _log(self) -> str:
        return (self._where / "daemon.log").read_text("utf-8", "replace")[-2000:]


def _so_far(run: Run) -> str:
    return run.outcome or f"fence {run.fence} runs"
