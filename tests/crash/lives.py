"""The real daemon and the real executor as objects of the test process, each of which may die."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dispatcher import times
from dispatcher.daemon.daemon import _check_store
from dispatcher.daemon.executor_client import ExecutorClient, connect_to
from dispatcher.daemon.loop import Loop
from dispatcher.executor.executor import Executor, ExecutorIdentity
from dispatcher.executor.journal import Header, Journal
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.server import Server
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor_api import StartSettings
from dispatcher.policy import RetryPolicy
from dispatcher.store.open import open_store
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.supervisor.turn import SupervisorSettings
from dispatcher.times import NEVER, Instant
from tests.crash import sites
from tests.crash.mortal import Fate

NODE = "5a7c0c3e-0000-4000-8000-00000000000c"

#: As short as durations get.
RETRY = RetryPolicy(backoff_min_ms=2, backoff_max_ms=2, cooldown_ms=2)

Trace = Callable[..., None]


@dataclass(frozen=True)
class Place:
    """The directories of one node."""

    state_dir: Path
    runtime_dir: Path

    @property
    def store_url(self) -> str:
        return f"sqlite://{self.state_dir / 'tasks.db'}"

    @property
    def output_dir(self) -> Path:
        return self.state_dir / "output"

    @property
    def journal(self) -> Path:
        return self.state_dir / "executor.journal"

    def start(self, *, kill_grace: float = 0.0) -> StartSettings:
        """Return what every start shares: no patience."""
        return StartSettings(
            worker_socket=str(self.runtime_dir / "worker.sock"),
            kill_grace=kill_grace,
            exit_grace=0.0,
            leftover_grace=0.0,
        )

    def settings(self, **changes: Any) -> SupervisorSettings:
        """Return a supervisor's settings, in a hurry."""
        facts: dict[str, Any] = {
            "node_id": NODE,
            "hostname": "here",
            "slots": 4,
            "output_dir": str(self.output_dir),
            "start": self.start(),
            "retry": RETRY,
            "drain_timeout": 0.0,
            "until_idle": True,
        }
        return SupervisorSettings(**{**facts, **changes})


class DaemonLife:
    """A daemon from its first call to its end."""

    def __init__(
        self,
        place: Place,
        fate: Fate,
        settings: SupervisorSettings,
        wrap_store: Callable[[Any], Any] = lambda store: store,
    ) -> None:
        self.fate = fate
        self.store = open_store(place.store_url, state_dir=place.state_dir, patience=0.02)
        connect = partial(connect_to, str(place.runtime_dir / "executor.sock"))
        self.client = ExecutorClient(
            sites.mortal_connect(connect, fate),
            node_id=NODE,
            state_dir=str(place.state_dir),
            check=partial(_check_store, self.store, place.state_dir),
        )
        client = sites.mortal_client(self.client, fate)
        self.supervisor = Supervisor(
            sites.mortal_store(wrap_store(self.store), fate),
            client,
            settings,
            rng=random.Random(1),
        )
        self.daemon = Loop(self.supervisor, client)

    def fileno(self) -> int:
        """Return what to wait on."""
        self.daemon._watch_executor()
        return self.daemon._selector.fileno()

    @property
    def due(self) -> Instant:
        return self.daemon.due

    def step(self) -> bool:
        """Let it act once; False when it has nothing more to do."""
        self.daemon.step(longest=0.0)
        return not self.daemon.is_over

    def take_leave(self) -> None:
        """Do what `dispatcher run` does at its end."""
        self.daemon.take_leave(for_good=self.supervisor.leaves_nothing_behind, within=1.0)
        self.close()

    def close(self) -> None:
        """Lose every descriptor, as at death: nothing is said or written."""
        self.daemon.close()
        self.store.close()


class ExecutorLife:
    """An executor from its first call to its end."""

    def __init__(self, place: Place, fate: Fate, trace: Trace, *, boot_id: str = "boot") -> None:
        self.fate = fate
        self.executor: Executor | None = None
        self.kernel = Kernel()
        self.due = Instant(0.0)
        self._before: set[tuple[int, int, int]] = set()
        self._trace = trace
        kernel = sites.mortal_kernel(self.kernel, fate)
        self._outputs = OutputFiles()
        outputs = sites.mortal_outputs(self._outputs, fate)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._spawner = Spawner(outputs, environ=os.environ, open_files=files)
        namespace = os.readlink("/proc/self/ns/pid")
        self._node = ExecutorIdentity(NODE, str(place.state_dir), boot_id, namespace)
        header = Header(boot_id=boot_id, pid_namespace=namespace)
        self._journal = Journal(str(place.journal), header)
        self._server = Server(str(place.runtime_dir), kernel, trace)
        self._parts: dict[str, Any] = {
            "kernel": kernel,
            "outputs": outputs,
            "spawner": sites.mortal_spawner(self._spawner, fate),
            "journal": sites.mortal_journal(self._journal, fate),
            "server": sites.mortal_server(self._server, fate),
            "notices": Notices(str(place.runtime_dir), kernel, self._server),
        }

    def begin(self) -> None:
        """Take over what there is; it may die of that."""
        self._before = descriptors()
        self.executor = Executor(self._node, log=self._trace, embedded=True, **self._parts)
        self.due = self._next_due()

    def fileno(self) -> int:
        """Return what to wait on."""
        return self.kernel._poll.fileno()

    @property
    def has_news(self) -> bool:
        """Whether somebody speaks to it, or a leader has exited."""
        return bool(self.kernel._poll.poll(0))

    def step(self) -> bool:
        """Let it act once; False when it leaves."""
        if self.fate.point is not None:
            self._before = descriptors()
        stays = self.executor.step(timeout=0.0)
        self.due = self._next_due()
        return stays

    def _next_due(self) -> Instant:
        patience = self.executor._patience(None)
        return NEVER if patience is None else Instant(times.instant() + patience)

    @property
    def runs(self) -> dict[str, Any]:
        """The runs that it knows."""
        return {} if self.executor is None else self.executor._runs._runs

    def close(self) -> None:
        """Lose every descriptor, as at death: nothing is said or written, no child is touched."""
        for run in self.runs.values():
            if run.handle is not None:
                with suppress(OSError):  # it died of closing it
                    os.close(run.handle)
        for part in (self._server, self._journal, self.kernel, self._spawner):
            part.close()
        for path in list(self._outputs._files):
            self._outputs.close(path)
        if self.fate.dead:
            # What its last call had opened and kept nowhere yet.
            for descriptor, *_ in descriptors() - self._before:
                os.close(descriptor)


def descriptors() -> set[tuple[int, int, int]]:
    """Return the open descriptors of this process, each with what it is open on."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own is closed by now
            status = os.fstat(int(name))
            found.add((int(name), status.st_dev, status.st_ino))
    return found
