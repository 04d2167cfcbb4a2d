"""`make demo-hosts`: two hosts share a server, one of them dies, and the other finishes its tasks.

Both hosts are on this machine, each with a daemon, an executor and directories of its own.
"""

import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from rich.console import Console

from dispatcher import times, worker_api
from dispatcher.client import Client
from dispatcher.config.config import load
from dispatcher.demo.files import Job, largest
from dispatcher.demo.proof import ProofCheck
from dispatcher.demo.screen import DemoFailed, Screen, TaskRow
from dispatcher.demo.server import server
from dispatcher.exit_codes import ExitCode
from dispatcher.model import Outcome, Run, TaskState
from dispatcher.store.open import open_store

CONFIG = """\
[node]
state_dir = "{where}/state"
runtime_dir = "{where}/run"
slots = 4
[store]
url = "{url}"
[daemon]
poll = "200ms"
[executor]
absence_limit = "2s"
[leases]
kill_grace = "500ms"
takeover_margin = "3s"
[logs]
format = "json"
"""

#: Seconds that each file takes longer, so that some are running when the second host dies.
PAUSE = 1

#: Seconds between two looks at the store, of the whole demo before it gives up, and in which an
#: idle executor exits.
LOOK = 0.1
PATIENCE = 180.0
EXIT_PATIENCE = 15.0


class Host:
    """A daemon with directories of its own, its executor, and the node's id."""

    def __init__(self, name: str, where: Path, url: str) -> None:
        self.name = name
        where.mkdir()
        self._where = where
        self._config_file = where / "dispatcher.toml"
        self._config_file.write_text(CONFIG.format(where=where, url=url), "utf-8")
        self.config = load(str(self._config_file))
        self.daemon: subprocess.Popen[bytes] | None = None
        self.executor: psutil.Process | None = None
        self.node = ""

    def make_store(self) -> None:
        """Make the tables on the server."""
        config = self.config
        open_store(config.store_url, state_dir=config.state_dir, patience=PATIENCE).close()

    def start(self) -> None:
        """Start the daemon, and wait until its executor is connected."""
        command = [sys.executable, "-P", "-m", "dispatcher", "run", "--config"]
        with (self._where / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*command, str(self._config_file)], stdout=log, stderr=log, start_new_session=True
            )
        with Client(self.config) as client:
            self._await(lambda: self._find_executor(client))
        self.node = (self.config.state_dir / "node-id").read_text("utf-8").strip()

    def _find_executor(self, client: Client) -> bool:
        report = client.status().standing.report
        if report is None or report.executor_pid is None:
            return False
        self.executor = psutil.Process(report.executor_pid)
        return True

    def _await(self, condition: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE / LOOK)):
            if condition():
                return
            assert self.daemon is not None
            with suppress(subprocess.TimeoutExpired):
                self.daemon.wait(LOOK)
                break
        raise DemoFailed(f"the daemon of the {self.name} host does not start:\n{self.log()}")

    def lose_power(self) -> None:
        """Kill all of its processes at once: daemon, executor, and then every worker."""
        assert self.daemon is not None
        assert self.executor is not None
        self.daemon.kill()
        self.executor.kill()
        for worker in workers_of(str(self.config.state_dir)):
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        self.daemon.wait()

    def stop(self) -> None:
        """End the daemon in order, and wait for its executor, which then ends by itself."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait()
        if self.executor is not None:
            with suppress(psutil.Error):
                self.executor.wait(EXIT_PATIENCE)

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
        if self.executor is not None:
            with suppress(psutil.Error):
                self.executor.terminate()  # it ends its workers first
                self.executor.wait(EXIT_PATIENCE)

    def log(self) -> str:
        return (self._where / "daemon.log").read_text("utf-8", "replace")[-2000:]


class HostsPlay:
    """The tasks of two hosts, of which the second dies."""

    def __init__(self, hosts: Sequence[Host], job: Job, screen: Screen, client: Client) -> None:
        self._first, self._second = hosts
        self._job = job
        self._screen = screen
        self._client = client
        self.tasks: list[int] = []
        self._left = 0
        """How many tasks of the second host were running at its death."""

    def perform(self) -> None:
        for command in self._job.commands():
            self.tasks.append(self._client.submit(command=command).task_id)
        self._screen.write(f"submitted {len(self.tasks)} files to compress")
        for host in (self._first, self._second):
            host.start()
            self._screen.write(f"started the {host.name} host: a daemon and its executor")
        self._watch(self._is_half_done)
        self._second.lose_power()
        self._left = sum(run.outcome is None for run in self._runs_on(self._second))
        self._screen.write(
            "killed all processes of the second host (SIGKILL), daemon and executor first:"
            f" {self._left} of its tasks were running"
        )
        self._watch(lambda settled: settled == len(self.tasks))
        self._first.stop()

    def runs(self) -> list[list[Run]]:
        return [self._client.runs(task_id) for task_id in self.tasks]

    def checks(self) -> Iterator[ProofCheck]:
        """Yield every promise of the demo, compared with the store and the files."""
        runs, every = self.runs(), len(self.tasks)
        states = [one.state for task in self.tasks if (one := self._client.task(task)) is not None]
        yield ProofCheck("files: succeeded", every, states.count(TaskState.SUCCEEDED))
        once = [[run.outcome for run in of_task].count(Outcome.SUCCEEDED) for of_task in runs]
        yield ProofCheck("files: with exactly one successful run", every, once.count(1))
        intact = self._job.intact()
        yield ProofCheck("files: results that pass gzip -t and equal the original", every, intact)
        taken = [self._was_taken_over(of_task) for of_task in runs].count(True)
        what = "the tasks that ran on the second host: orphaned there, finished by the first"
        yield ProofCheck(what, max(1, self._left), taken)
        dirs = [str(host.config.state_dir) for host in (self._first, self._second)]
        left = sum(len(list(workers_of(one))) for one in dirs)
        yield ProofCheck("processes left", 0, left)

    def _was_taken_over(self, runs: Sequence[Run]) -> bool:
        facts = [(run.node, run.outcome, run.fence) for run in runs]
        lost = self._second.node, Outcome.ORPHANED, 1
        return facts == [lost, (self._first.node, Outcome.SUCCEEDED, 2)]

    def _runs_on(self, host: Host) -> list[Run]:
        return [run for of_task in self.runs() for run in of_task if run.node == host.node]

    def _is_half_done(self, settled: int) -> bool:
        if 2 * settled < len(self.tasks):
            return False
        return any(run.outcome is None and run.started_at for run in self._runs_on(self._second))

    def _watch(self, until: Callable[[int], bool]) -> None:
        """Show the tasks until a condition on how many are settled is true."""
        give_up_at = times.instant() + PATIENCE
        while times.instant() < give_up_at:
            counts = self._client.status().counts.get("default", {})
            settled = sum(counts.get(state, 0) for state in (TaskState.SUCCEEDED, TaskState.FAILED))
            self._screen.show(self._rows(settled))
            if until(settled):
                return
            assert self._first.daemon is not None
            with suppress(subprocess.TimeoutExpired):
                self._first.daemon.wait(LOOK)
                raise DemoFailed(f"the daemon ended:\n{self._first.log()}")
        raise DemoFailed(f"not done after {PATIENCE:.0f} s:\n{self._first.log()}")

    def _rows(self, settled: int) -> list[TaskRow]:
        quarter = str(4 * settled // len(self.tasks))
        state = f"{settled} of {len(self.tasks)} settled"
        rows = [TaskRow("files", "are compressed, each once", state, "", news=quarter)]
        for host in (self._first, self._second):
            runs = self._runs_on(host)
            over = sum(run.outcome is Outcome.SUCCEEDED for run in runs)
            running = sum(run.outcome is None for run in runs)
            now = f"{over} succeeded, {running} running"
            rows.append(TaskRow(f"{host.name} host", "runs what it claims", now, "", news=quarter))
        return rows


def workers_of(state_dir: str) -> Iterator[psutil.Process]:
    """Yield the processes of a host's runs."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environ = process.environ()
            if worker_api.MARKER in environ and environ.get("DISPATCHER_STATE_DIR") == state_dir:
                yield process


def perform(console: Console) -> bool:
    """Perform the demo in temporary directories; return whether every promise was kept."""
    files = largest(Path(sysconfig.get_path("stdlib")))
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="dispatcher-demo-"))
        url = stack.enter_context(server())
        where = Path(directory)
        hosts = [Host(name, where / name, url) for name in ("first", "second")]
        for host in hosts:
            stack.callback(host.end)
        hosts[0].make_store()
        client = stack.enter_context(Client(hosts[0].config))
        screen = Screen(console)
        job = Job(files, where / "results", pause=PAUSE)
        play = HostsPlay(hosts, job, screen, client)
        with screen:
            play.perform()
        screen.write("the promises:")
        kept = []
        for check in play.checks():
            screen.write(str(check))
            kept.append(check.kept)
    return all(kept)


def main() -> int:
    try:
        return ExitCode.OK if perform(Console()) else ExitCode.REFUSED
    except DemoFailed as error:
        Console(stderr=True).print(f"Error: {error}", highlight=False)
        return ExitCode.REFUSED


if __name__ == "__main__":
    sys.exit(main())
