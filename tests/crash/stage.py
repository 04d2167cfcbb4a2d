"""One node on a stage: daemon and executor take turns, die where they must, and are born again."""

import os
import select
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from structlog.testing import capture_logs

from dispatcher import times
from dispatcher.model import Run, Task, TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.open import open_store
from dispatcher.submission import FIXED, fixed
from tests.crash.family import Family, bury
from tests.crash.lives import DaemonLife, ExecutorLife, Place, descriptors
from tests.crash.mortal import Died, Fate
from tests.crash.workers import Diary
from tests.eventually import PATIENCE
from tests.recorded_logs import RecordedLog, expect_catalogued

#: A directory in memory: no power fails here, so files need no disk.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None

#: Seconds that a play may take: a hundred times what it needs.
LONGEST_PLAY = PATIENCE


class Stage:
    """Directories, a store and processes. A context manager that leaves nothing behind."""

    def __init__(self, template: Path, *, state_dir: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="crash-", dir=MEMORY))
        self.place = Place(state_dir or self.directory / "state", self.directory / "run")
        shutil.copytree(template, self.place.state_dir)
        self.place.output_dir.mkdir(parents=True, exist_ok=True)
        self.place.runtime_dir.mkdir()
        self.family = Family()
        self.config = self.place.config()
        self.until_idle = True
        self.boot_id = "b0070000-0000-4000-8000-00000000000c"
        self.pid_namespace = os.readlink("/proc/self/ns/pid")
        self.daemon: DaemonLife | None = None
        self.executor: ExecutorLife | None = None
        self.has_left = {"daemon": False, "executor": False}
        self.die_together = False
        self.fates: list[Fate] = []
        self.fate_of: Callable[[str], Fate] = lambda who: Fate()
        self.wrap_store: Callable[[Any], Any] = lambda store: store
        self.trace: list[Any] = []
        self._bereaved: set[int] = set()
        self._ends_at = times.instant() + LONGEST_PLAY
        self._logs = capture_logs()

    def __enter__(self) -> Self:
        self._descriptors = descriptors()
        self.trace = self._logs.__enter__()
        self.open_store()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.kill()
            self.store.close()
            self.family.end()
        finally:
            self._logs.__exit__(kind, *error)
            shutil.rmtree(self.directory, ignore_errors=True)
        if kind is None:
            left = descriptors() - self._descriptors
            assert not left, "descriptors were left open"
            expect_catalogued(self.trace)

    def open_store(self) -> None:
        """Open the store as a command does; close it with `stage.store.close()`."""
        self.store = open_store(
            self.config.store_url, state_dir=self.config.state_dir, patience=5.0
        )

    # Tasks --------------------------------------------------------------------------------

    def diary(self, task_id: int) -> Diary:
        return Diary(self.directory / f"{task_id}.diary")

    def submit(self, body: str, *arguments: str, attempts: int = 1) -> int:
        """Submit a script that keeps its task's diary; return the task's id."""
        task_id = len(self.tasks()) + 1
        command = self.diary(task_id).command(body, *arguments)
        return self.submit_command(*command, attempts=attempts)

    def submit_command(self, *command: str, attempts: int = 1) -> int:
        rules = fixed(self.config, dict.fromkeys(FIXED))
        task = NewTask(command=command, max_attempts=attempts, lease_ttl_ms=60_000, **rules)
        with self.store.transaction() as now:
            return self.store.submit([task], now=now)[0].task_id

    def cancel(self, task_id: int) -> None:
        """Cancel a task as an operator does, and wake the daemon."""
        with self.store.transaction() as now:
            self.store.cancel(task_id, "cancelled by an operator", now=now)
        self.step_daemon()

    def tasks(self) -> list[Task]:
        with self.store.snapshot():
            return self.store.tasks(TaskFilter(limit=10_000))[::-1]

    def task(self, task_id: int) -> Task:
        with self.store.snapshot():
            task = self.store.task(task_id)
        assert task is not None
        return task

    def runs(self, task_id: int) -> list[Run]:
        with self.store.snapshot():
            return self.store.runs(task_id)

    def states(self) -> list[TaskState]:
        return [task.state for task in self.tasks()]

    # Life and death -----------------------------------------------------------------------

    def start_daemon(self, fate: Fate | None = None) -> None:
        self.daemon = DaemonLife(
            self.config, fate or Fate(), until_idle=self.until_idle, wrap_store=self.wrap_store
        )

    def start_executor(self, fate: Fate | None = None) -> None:
        """Let an executor begin; it may die of what it finds."""
        self.executor = ExecutorLife(
            self.place, fate or Fate(), RecordedLog(self.trace), boot_id=self.boot_id
        )
        self._act(self.executor.begin)

    def kill_daemon(self) -> None:
        if self.daemon is not None:
            self._note("DAEMON DIES", point=str(self.daemon.fate.point))
            daemon, self.daemon = self.daemon, None
            daemon.close()

    def kill_executor(self) -> None:
        """Its children live on; init reaps the dead among them."""
        if self.executor is not None:
            self._note("EXECUTOR DIES", point=str(self.executor.fate.point))
            executor, self.executor = self.executor, None
            executor.close()
            self._bereaved |= self.family.orphans()
            self._be_init()

    def kill(self) -> None:
        self.kill_daemon()
        self.kill_executor()

    def revive(self) -> None:
        """Start each process that died, and with it the other one if that had left."""
        for one, other in (("executor", "daemon"), ("daemon", "executor")):
            if getattr(self, one) is None and not self.has_left[one]:
                self.has_left[other] = False
        if self.executor is None and not self.has_left["executor"]:
            self.start_executor(self.fate_of("executor"))
        if self.daemon is None and not self.has_left["daemon"]:
            self.start_daemon(self.fate_of("daemon"))

    # Turns --------------------------------------------------------------------------------

    def step_daemon(self) -> bool:
        """Let the daemon act once; False when it has gone."""
        daemon = self.daemon
        if daemon is None or self._act(daemon.step) is not False:
            return self.daemon is not None
        self._act(daemon.finish)
        if self.daemon is not None:
            self._note("DAEMON LEAVES")
            self.has_left["daemon"] = True
            self.daemon = None
        return False

    def step_executor(self) -> bool:
        """Let the executor act once; False when it has gone."""
        executor = self.executor
        if executor is None or self._act(executor.step) is not False:
            return self.executor is not None
        self._note("EXECUTOR LEAVES", runs=list(executor.runs))
        self.has_left["executor"] = True
        self.executor = None
        executor.close()
        return False

    def turn(self, *, longest: float = 0.002) -> None:
        """Wait until daemon or executor has something to do, and let it."""
        assert times.instant() < self._ends_at, f"it does not end:\n{self.story()}"
        self._be_init()
        at = times.instant()
        lives = [life for life in (self.daemon, self.executor) if life is not None]
        due = min((life.due for life in lives), default=at)
        with select.epoll() as poll:
            for life in lives:
                poll.register(life.fileno(), select.EPOLLIN)
            ready = {fd for fd, _ in poll.poll(max(0.0, min(longest, due - at)))}
        at = times.instant()
        for name, step in (("daemon", self.step_daemon), ("executor", self.step_executor)):
            life = getattr(self, name)  # looked up now: one may die with the other
            if life in lives and (life.fileno() in ready or life.due <= at):
                step()

    @property
    def is_over(self) -> bool:
        """Whether daemon and executor went by themselves, having nothing left to do."""
        return all(self.has_left.values())

    def finish(self) -> None:
        """Take turns until all is done; start each process that died again."""
        while not self.is_over:
            self.revive()
            self.turn()

    def until(self, condition: Callable[[], object]) -> None:
        """Take turns until a condition holds."""
        while not condition():
            self.turn()

    def story(self) -> str:
        """Return all log lines and outcomes, for a failure's message."""
        lines = [" ".join(f"{k}={v}" for k, v in line.items()) for line in self.trace]
        for task in self.tasks():
            lines.append(
                f"task {task.id} {task.state}, attempt {task.attempts_used}: {task.reason}"
            )
            lines += [
                f"  fence {run.fence} {run.outcome} {run.exit_code} {run.signal} {run.reason}"
                for run in self.runs(task.id)
            ]
        return "\n".join(lines)

    def _act(self, act: Callable[[], Any]) -> Any:
        """Let a process act; return None if it died."""
        try:
            return act()
        except Died:
            for life, kill in (
                (self.daemon, self.kill_daemon),
                (self.executor, self.kill_executor),
            ):
                if life is not None and (life.fate.dead or self.die_together):
                    kill()
            return None

    def _be_init(self) -> None:
        for pid in self._bereaved:
            bury(pid)
        if self._bereaved:
            self._bereaved &= self.family.orphans()

    def _note(self, event: str, **facts: object) -> None:
        self.trace.append({"event": event, **facts})


def make_template(directory: Path) -> Path:
    """Make a state directory with an empty store; copying it is faster than making another."""
    open_store(f"sqlite://{directory / 'tasks.db'}", state_dir=directory, patience=5.0).close()
    assert {"tasks.db", "store-id"} == set(os.listdir(directory))
    return directory
