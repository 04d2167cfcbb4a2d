"""`dispatcher demo`: the main job on real input, with a SIGKILL in the middle, and the proof."""

from __future__ import annotations

import gzip
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher import wire
from dispatcher.cli.options import examples
from dispatcher.client import Client, Status
from dispatcher.config import load
from dispatcher.model import Outcome, TaskState
from dispatcher.wire import ExitCode

FILES = 48

#: The first so many compress only after a pause: they are running when the daemon is killed.
SLOW = 3

CONFIG = """\
[node]
state_dir = "{where}/state"
runtime_dir = "{where}/run"
slots = 5
[daemon]
poll = "200ms"
[logs]
format = "json"
"""

COMPRESS = 'exec gzip < "$1" > "$2"'

#: Seconds between two looks at the store, and of the whole demo before it gives up.
LOOK = 0.05
PATIENCE = 120.0


class DemoFailed(click.ClickException):
    """Something did not come as promised."""


class Demo:
    """One folder's files, one temporary dispatcher."""

    def __init__(self, files: Sequence[Path], where: Path, console: Console) -> None:
        self._files = files
        self._where = where
        self._console = console
        self._config_file = where / "dispatcher.toml"
        self._config_file.write_text(CONFIG.format(where=where), "utf-8")
        self._results = where / "results"
        self._results.mkdir()
        self._client = Client(load(str(self._config_file)))
        self._ids: list[int] = []
        self._executor: psutil.Process | None = None

    def play(self) -> bool:
        """Submit, kill, recover, and prove; tell whether all came as promised."""
        with self._client, self._progress() as advance:
            self._submit()
            half = len(self._files) // 2
            with self._daemon() as daemon:
                self._watch(daemon, advance, lambda settled, running: settled >= half and running)
                daemon.kill()
                daemon.wait()
                settled, running = self._counts(self._client.status())
            self._say(f"killed the daemon (SIGKILL): {settled} settled, {running} still running")
            with self._daemon("--drain") as daemon:
                self._say("started it again, to go on until nothing is left to do")
                self._watch(daemon, advance, lambda settled, _: settled == len(self._files))
                daemon.wait(PATIENCE)
                advance(self._counts(self._client.status())[0])
            return self._prove()

    # Playing ------------------------------------------------------------------------------

    def _submit(self) -> None:
        for number, file in enumerate(self._files):
            script = f"sleep 3; {COMPRESS}" if number < SLOW else COMPRESS
            command = ["sh", "-c", script, "gzip", str(file), str(self._result(number))]
            submitted = self._client.submit(command=command, queue="demo")
            self._ids.append(submitted.task_id)
        self._say(f"submitted {len(self._ids)} tasks, {SLOW} of them slow")

    def _watch(
        self,
        daemon: subprocess.Popen[bytes],
        advance: Callable[[int], None],
        until: Callable[[int, int], object],
    ) -> None:
        """Follow the tasks until something holds of (settled, running), or the daemon ends."""
        for _ in range(int(PATIENCE / LOOK)):
            status = self._client.status()
            self._note_executor(status)
            settled, running = self._counts(status)
            advance(settled)
            if until(settled, running):
                return
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(LOOK)
                if not until(*self._counts(self._client.status())):
                    raise DemoFailed(f"the daemon ended:\n{self._log()}")
                return
        raise DemoFailed(f"not done after {PATIENCE:.0f} s:\n{self._log()}")

    def _note_executor(self, status: Status) -> None:
        pid = status.report.get("executor_pid")
        if self._executor is None and isinstance(pid, int):
            with suppress(psutil.NoSuchProcess):
                self._executor = psutil.Process(pid)

    @staticmethod
    def _counts(status: Status) -> tuple[int, int]:
        counts = status.counts.get("demo", {})
        finished = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.HELD)
        return sum(counts.get(s, 0) for s in finished), counts.get(TaskState.RUNNING, 0)

    @contextmanager
    def _daemon(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "dispatcher", "run", *options]
        with (self._where / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [*command, "--config", str(self._config_file)], stdout=log, stderr=log
            )
        try:
            yield daemon
        except BaseException:
            daemon.kill()
            daemon.wait()
            if self._executor is not None:
                with suppress(psutil.NoSuchProcess):
                    self._executor.terminate()  # it ends its workers first
                    self._executor.wait(10)
            raise

    # Proving ------------------------------------------------------------------------------

    def _prove(self) -> bool:
        tasks = [self._client.task(task_id) for task_id in self._ids]
        runs = [self._client.runs(task_id) for task_id in self._ids]
        succeeded = [[run.outcome for run in each].count(Outcome.SUCCEEDED) for each in runs]
        intact = [self._is_intact(number) for number in range(len(self._files))]
        left = self._left({run.uid for each in runs for run in each})
        every = len(self._files)
        checks = [
            (
                "tasks that succeeded",
                sum(task.state == "succeeded" for task in tasks if task),
                every,
            ),
            ("tasks with exactly one successful run", succeeded.count(1), every),
            ("runs in all: none was lost with the daemon", sum(map(len, runs)), every),
            ("results that pass gzip -t and equal the original", sum(intact), every),
            ("processes left", len(left), 0),
        ]
        for what, got, expected in checks:
            mark = "[green]ok    [/]" if got == expected else "[red]FAILED[/]"
            self._say(f"{mark} {what}: {got} (expected {expected})")
        return all(got == expected for _, got, expected in checks)

    def _is_intact(self, number: int) -> bool:
        result = self._result(number)
        tested = subprocess.run(["gzip", "-t", str(result)], check=False, capture_output=True)
        if tested.returncode != 0:
            return False
        return gzip.decompress(result.read_bytes()) == self._files[number].read_bytes()

    def _left(self, uids: set[wire.RunUid]) -> list[psutil.Process]:
        """Return what is left of the executor and of the runs."""
        left: list[psutil.Process] = []
        if self._executor is not None:
            _, left = psutil.wait_procs([self._executor], timeout=5)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(wire.MARKER) in uids:
                    left.append(process)
        return left

    # Telling ------------------------------------------------------------------------------

    @contextmanager
    def _progress(self) -> Iterator[Callable[[int], None]]:
        """Draw a bar while the block lasts; give what moves it."""
        columns = (
            TextColumn("settled"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("settled", total=len(self._files))
            yield lambda settled: progress.update(bar, completed=settled)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _result(self, number: int) -> Path:
        return self._results / f"{number:02}-{self._files[number].name}.gz"

    def _log(self) -> str:
        return (self._where / "daemon.log").read_text("utf-8", "replace")[-2000:]


@click.command(epilog=examples("dispatcher demo", "dispatcher demo /usr/share/doc"))
@click.argument(
    "folder",
    required=False,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
def demo(folder: Path | None) -> int:
    """Watch the main job: compress a folder's largest files, and survive a kill.

    One gzip task for each of the 48 largest files of FOLDER (default: Python's standard library);
    the daemon is killed with SIGKILL when half are settled, and started again. Works in a temporary
    folder and leaves nothing behind. Exits 0 only if every result is proven.
    """
    files = largest(folder or Path(sysconfig.get_path("stdlib")))
    if len(files) <= 2 * SLOW:
        raise click.UsageError(f"{folder} has only {len(files)} files to compress; name another")
    with tempfile.TemporaryDirectory(prefix="dispatcher-demo-") as where:
        proven = Demo(files, Path(where), Console()).play()
    return ExitCode.OK if proven else ExitCode.NOT_SO


def largest(folder: Path) -> list[Path]:
    """Return a folder's largest readable files, itself and all below, largest first."""
    sizes = []
    for file in folder.rglob("*"):
        with suppress(OSError):
            if file.is_file() and not file.is_symlink():
                sizes.append((file.stat().st_size, file))
    return [file for _, file in sorted(sizes, reverse=True)[:FILES]]
