"""The real daemon and the real executor as objects of the test process, each of which may die."""

import os
import resource
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dispatcher import times
from dispatcher.config.config import Config, resolve
from dispatcher.config.settings import (
    DaemonSection,
    LeasesSection,
    NodeSection,
    RetrySection,
    Settings,
)
from dispatcher.daemon.daemon import Daemon, executor_client
from dispatcher.daemon.executor_connection import connect_to
from dispatcher.daemon.run import STORE_PATIENCE
from dispatcher.executor.executor import Executor, ExecutorIdentity
from dispatcher.executor.journal import Journal
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.outside import Outside
from dispatcher.executor.records import Header
from dispatcher.executor.reports import Reporter
from dispatcher.executor.server import Server
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.open import open_store
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.times import NEVER, Instant
from tests.crash import sites
from tests.crash.mortal import Fate

NODE = "5a7c0c3e-0000-4000-8000-00000000000c"

#: As short as durations get.
NOTHING, LEAST = Milliseconds(0), Milliseconds(2)

Trace = Callable[..., None]


@dataclass(frozen=True)
class Place:
    """The directories of one node."""

    state_dir: Path
    runtime_dir: Path

    @property
    def output_dir(self) -> Path:
        return self.state_dir / "output"

    @property
    def journal(self) -> Path:
        return self.state_dir / "executor.journal"

    def config(self, *, kill_grace_ms: int = 0) -> Config:
        """Return the configuration of a daemon with short times."""
        settings = Settings(
            node=NodeSection(
                state_dir=str(self.state_dir), runtime_dir=str(self.runtime_dir), slots=4
            ),
            daemon=DaemonSection(drain_timeout_ms=NOTHING),
            leases=LeasesSection(
                kill_grace_ms=Milliseconds(kill_grace_ms),
                exit_grace_ms=NOTHING,
                leftover_grace_ms=NOTHING,
            ),
            retry=RetrySection(backoff_min_ms=LEAST, backoff_max_ms=LEAST, cooldown_ms=LEAST),
        )
        config, mistakes = resolve(settings, None, {})
        assert [] == mistakes
        return config


class DaemonLife:
    """A daemon from its first call to its end."""

    def __init__(
        self,
        config: Config,
        fate: Fate,
        *,
        until_idle: bool = True,
        wrap_store: Callable[[Any], Any] = lambda store: store,
    ) -> None:
        self.fate = fate
        self.store = open_store(
            config.store_url, state_dir=config.state_dir, patience=STORE_PATIENCE
        )
        connect = partial(connect_to, str(config.executor_socket))
        client = executor_client(
            config, NODE, self.store, connect=sites.mortal_connect(connect, fate), launcher=None
        )
        self.daemon = Daemon(
            config,
            node=NODE,
            store=sites.mortal_store(wrap_store(self.store), fate),
            executor=sites.mortal_client(client, fate),
            until_idle=until_idle,
        )

    @property
    def supervisor(self) -> Supervisor:
        return self.daemon.supervisor

    def fileno(self) -> int:
        """Return what to wait on."""
        return self.daemon.loop.fileno()

    @property
    def due(self) -> Instant:
        return self.daemon.loop.due

    def step(self) -> bool:
        """Let it act once; False when it has nothing more to do."""
        self.daemon.loop.step(longest=0.0)
        return not self.daemon.loop.is_over

    def finish(self) -> None:
        """Do what `dispatcher run` does at its end."""
        self.daemon.finish()
        self.close()

    def close(self) -> None:
        """Lose every descriptor, as at death: nothing is sent or written."""
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
        mortal_server = sites.mortal_server(self._server, fate)
        self._parts: dict[str, Any] = {
            "kernel": kernel,
            "outputs": outputs,
            "spawner": sites.mortal_spawner(self._spawner, fate),
            "server": mortal_server,
            "notices": Notices(str(place.runtime_dir), kernel, self._server),
            "report": Reporter(
                sites.mortal_journal(self._journal, fate), trace, mortal_server.send
            ),
        }

    def begin(self) -> None:
        """Take over what there is; it may die of that."""
        self._before = descriptors()
        self.executor = Executor(self._node, Outside(**self._parts), embedded=True)
        self.due = self._next_due()

    def fileno(self) -> int:
        """Return what to wait on."""
        return self.kernel.fileno()

    @property
    def has_news(self) -> bool:
        """Whether it has something to read, or a leader has exited."""
        return bool(select.select([self.kernel], [], [], 0)[0])

    def step(self) -> bool:
        """Let it act once; False when it leaves."""
        if self.fate.point is not None:
            self._before = descriptors()
        stays = self.executor.step(timeout=0.0)
        self.due = self._next_due()
        return stays

    def _next_due(self) -> Instant:
        patience = self.executor.patience(None)
        return NEVER if patience is None else Instant(times.instant() + patience)

    @property
    def runs(self) -> dict[str, Any]:
        return {} if self.executor is None else self.executor.table.known

    def close(self) -> None:
        """Lose every descriptor, as at death: nothing is sent or written, no child is touched."""
        for run in self.runs.values():
            if run.handle is not None:
                with suppress(OSError):  # it died of closing it
                    os.close(run.handle)
        if self.executor is not None:
            self.executor.runs.release()
        for part in (self._server, self._journal, self.kernel, self._spawner):
            part.close()
        self._outputs.release()
        if self.fate.dead:
            # Descriptors that its last call had opened and not stored yet.
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
