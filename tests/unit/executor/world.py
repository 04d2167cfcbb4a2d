"""An executor in virtual time: a kernel whose processes obey the test, and no sockets."""

import errno
import math
import select
import signal
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dispatcher import wire, worker_api
from dispatcher.executor.executor import Executor, ExecutorIdentity
from dispatcher.executor.journal import Journal
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.outside import Outside
from dispatcher.executor.records import Header
from dispatcher.executor.reports import Reporter
from dispatcher.executor.server import LINES_PER_TICK
from dispatcher.executor.starting.spawn import CannotStart
from dispatcher.executor.system.kernel import ProcessStatus, Usage
from dispatcher.executor.system.procfs import UNKNOWN_START, File, Process
from dispatcher.host.marks import mark_of
from dispatcher.times import Instant
from tests.recorded_logs import RecordedLog

M = TypeVar("M")

#: The executor's own pid and session.
SELF = 50

#: Stands for the descriptors by which a daemon speaks or knocks.
DAEMON = -1


@dataclass
class FakeProcess:
    """A process that dies of a signal unless it ignores it, or cannot die at all."""

    pid: int
    parent: int
    group: int
    session: int
    born: int
    environment: bytes | None = b""
    mark: int | None = 0
    hidden: bool = False
    """/proc shows it to nobody, as under hidepid."""
    ignores: frozenset[int] = frozenset()
    cannot_die: bool = False
    owner: int | None = None
    """The uid of another user, whom we may not signal."""
    held: bool = False
    """A tracer keeps its end from everybody else."""
    stopped: bool = False
    status: ProcessStatus | None = None
    signals: list[tuple[float, int]] = field(default_factory=list)


class FakeKernel:
    """Processes in a dict; time passes only while somebody waits."""

    pid = SELF
    session = SELF

    def __init__(self) -> None:
        self.now = 1000.0
        self.processes: dict[int, FakeProcess] = {}
        self.reaped: list[int] = []
        self.calm = True
        """Whether no process comes and goes while all are looked at."""
        self.broken: OSError | None = None
        self.stop: tuple[float, Callable[[], object]] | None = None
        """How long the next wait lasts whatever comes, and what happens then: it finds nothing."""
        self.daemon_speaks: Callable[[], bool] = lambda: False
        self.looks = 0
        self.short_of_handles = False
        self.killed_for_memory: int | None = 0
        self._last_pid = 100
        self._leaders: set[int] = set()
        self.handles: set[int] = set()
        self.watched: set[int] = set()

    # What tests do ---------------------------------------------------------------------------

    def born(self, parent: int, *, leads: bool = False, **facts: Any) -> FakeProcess:
        """Make a child of `parent`; leading, it has a session of its own."""
        self._last_pid += 1
        pid = self._last_pid
        above = self.processes.get(parent)
        group, session = (above.group, above.session) if above else (SELF, SELF)
        facts.setdefault("mark", above.mark if above else 0)
        if leads:
            group = session = pid
        process = FakeProcess(pid, parent, group, session, self.ticks(), **facts)
        self.processes[pid] = process
        return process

    def dies(self, process: FakeProcess, status: ProcessStatus | None = None) -> None:
        """Make a zombie of a process and give its children to the subreaper."""
        process.status = status or ProcessStatus(exit_code=0)
        for child in self.processes.values():
            if child.parent == process.pid:
                child.parent = SELF
        if process.parent != SELF:
            del self.processes[process.pid]

    # What the executor sees ------------------------------------------------------------------

    def close(self) -> None: ...

    def wait(self, timeout: float | None) -> list[int]:
        self.looks += 1
        if self.stop is not None and timeout != 0:
            (seconds, happens), self.stop = self.stop, None
            self.now += seconds
            happens()
            return []
        ready = [pid for pid in self.handles if self.processes[pid].status is not None]
        ready += select.select(self.watched, (), (), 0)[0]
        ready += [DAEMON] if self.daemon_speaks() else []
        if not ready:
            assert timeout is not None, "it would wait for ever"
            self.now += timeout
        return ready

    def watch(self, descriptor: int, *, writable: bool = False) -> None:
        self.watched.add(descriptor)

    def ignore(self, descriptor: int) -> None:
        if descriptor not in self.watched:
            raise FileNotFoundError(errno.ENOENT, "not watched")
        self.watched.remove(descriptor)

    def watch_edge(self, descriptor: int) -> None: ...

    def ticks(self) -> int:
        return int(self.now * 100)

    def start_ticks(self, leader: int, *, since: int) -> int:
        return self.processes[leader].born

    def adopt(self, leader: int) -> int | None:
        self._leaders.add(leader)
        if self.short_of_handles:
            return None
        self.handles.add(leader)
        return leader

    def release(self, handle: int) -> None:
        self.handles.discard(handle)

    def exit_of(self, leader: int) -> ProcessStatus | None:
        process = self.processes[leader]
        return None if process.held else process.status

    def reap(self, leader: int) -> Usage:
        del self.processes[leader]
        self._leaders.discard(leader)
        self.reaped.append(leader)
        return Usage(cpu_seconds=0.5)

    def signal_leader(self, leader: int, signum: int) -> None:
        self._deliver(self.processes[leader], signum)

    def signal_group(self, leader: int, signum: int) -> None:
        for process in [p for p in self.processes.values() if p.group == leader]:
            self._deliver(process, signum)

    def orphans(self) -> list[int]:
        self._raise()
        ours = [p.pid for p in self.processes.values() if p.parent == SELF]
        return [pid for pid in ours if pid not in self._leaders]

    def reap_if_dead(self, orphan: int) -> bool:
        if self.processes[orphan].status is None:
            return False
        del self.processes[orphan]
        self.reaped.append(orphan)
        return True

    def oom_kills(self) -> int | None:
        return self.killed_for_memory

    def children(self, pid: int) -> list[int]:
        return [p.pid for p in self.processes.values() if p.parent == pid]

    def everyone(self) -> list[int]:
        return list(self.processes)

    def mark(self, pid: int) -> int | None:
        found = self.processes.get(pid)
        return None if found is not None and found.hidden else found.mark if found else 0

    def kill_marked(
        self, wanted: Container[int], killed: Callable[[int], object]
    ) -> tuple[dict[int, int], bool]:
        for process in list(self.processes.values()):
            if process.mark and process.mark in wanted and process.status is None:
                killed(process.mark)
                self._deliver(process, signal.SIGKILL)
        marks = {p.pid: p.mark for p in self.processes.values() if p.mark}
        return marks, self.calm

    def is_refused_by(self, process: Process) -> bool:
        found = self.processes.get(process.pid)
        return found is not None and found.owner is not None and self._is_still(found, process)

    def owner(self, pid: int) -> int | None:
        return self.processes[pid].owner

    def may_signal(self, pid: int) -> bool:
        return pid in self.processes

    def look(self, pid: int) -> Process | None:
        self._raise()
        p = self.processes.get(pid)
        if p is None:
            return None
        if p.hidden:
            return Process(pid, f"pid {pid}", 0, p.group, p.session, UNKNOWN_START, True)
        return Process(pid, f"p{pid}", p.parent, p.group, p.session, p.born, p.status is None)

    def signal(self, process: Process, *signums: int) -> bool:
        found = self.processes.get(process.pid)
        if found is None or not self._is_still(found, process):
            return False
        for signum in signums:
            self._deliver(found, signum)
        return True

    @staticmethod
    def _is_still(found: FakeProcess, process: Process) -> bool:
        if process.opaque and process.mark:
            return found.mark == process.mark
        if process.opaque:
            return found.parent == process.parent
        return found.born == process.start_ticks

    def environment(self, process: Process) -> bytes | None:
        return self.processes[process.pid].environment

    def written(self, pid: int, files: Mapping[File, str]) -> File | None:
        return None

    def _raise(self) -> None:
        if self.broken is not None:
            raise self.broken

    def _deliver(self, process: FakeProcess, signum: int) -> None:
        if process.status is not None or process.owner is not None:
            return
        process.signals.append((self.now, signum))
        if signum in (signal.SIGSTOP, signal.SIGCONT):
            process.stopped = signum == signal.SIGSTOP
            return
        deadly = signum not in process.ignores
        if deadly and not process.cannot_die:
            self.dies(process, ProcessStatus(signal=signum))


class FakeSpawner:
    """Starts processes in the fake kernel, or refuses."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self.refusal: CannotStart | None = None
        self.why_unmarked: str | None = None
        self.facts: dict[str, Any] = {}

    def close(self) -> None: ...

    def start(self, start: wire.Start) -> int:
        if self.refusal is not None:
            raise self.refusal
        marker = f"{worker_api.MARKER}={start.uid}\0".encode()
        facts = {"mark": 0 if self.why_unmarked else mark_of(start.uid), **self.facts}
        return self._kernel.born(SELF, leads=True, environment=marker, **facts).pid


class FakeOutputs(OutputFiles):
    """Nobody writes anything."""

    def is_locked(self, path: str) -> bool:
        return False

    def tail(self, path: str) -> str:
        return ""


class FakeServer:
    """A daemon that is there or not; its messages in both directions are lists."""

    def __init__(self) -> None:
        self.descriptor: int | None = DAEMON
        """By which a look finds that it speaks; None: it is listened to without one."""
        self.connected = True
        self.knocks = False
        self.all_read = True
        self.inbox: list[wire.ToExecutor] = []
        self.sent: list[Any] = []

    def close(self) -> None: ...

    def open(self) -> None: ...

    @property
    def due(self) -> Instant:
        return Instant(0.0 if self.speaks else math.inf)

    @property
    def speaks(self) -> bool:
        return bool(self.inbox) or self.knocks

    def accept(self, ready: Iterable[int], at: Instant) -> bool:
        if not self._is_among(ready):
            return False
        greeted, self.knocks = self.knocks, False
        self.connected |= greeted
        return greeted

    def receive(self, ready: Iterable[int]) -> list[wire.ToExecutor]:
        if not self._is_among(ready):
            return []
        received, self.inbox = self.inbox[:LINES_PER_TICK], self.inbox[LINES_PER_TICK:]
        self.all_read = not self.inbox
        return received

    def _is_among(self, ready: Iterable[int]) -> bool:
        return self.descriptor is None or self.descriptor in ready

    def send(self, message: wire.FromExecutor) -> None:
        if self.connected:
            self.sent.append(message)

    def flush(self, at: Instant) -> None: ...


class World:
    """An executor with everything fake but its decisions and its journal."""

    def __init__(
        self,
        directory: Path,
        *,
        embedded: bool = False,
        greeted: bool = True,
        notifier: Any = None,
        runtime_dir: Path | None = None,
    ) -> None:
        self.directory = directory
        self.kernel = FakeKernel()
        self.server = FakeServer()
        self.kernel.daemon_speaks = lambda: self.server.speaks
        self.spawner = FakeSpawner(self.kernel)
        self.events: list[dict[str, Any]] = []
        self.path = directory / "executor.journal"
        self.journal = Journal(str(self.path), Header(boot_id="boot", pid_namespace="pids"))
        kernel: Any = self.kernel
        self.notices = Notices(str(runtime_dir or directory), kernel, self.server)
        log: Any = RecordedLog(self.events)
        self.report = Reporter(self.journal, log, self.server.send)
        parts: dict[str, Any] = {
            "kernel": self.kernel,
            "spawner": self.spawner,
            "outputs": FakeOutputs(),
            "server": self.server,
            "notices": self.notices,
            "report": self.report,
        }
        self.executor = Executor(
            ExecutorIdentity("node", str(directory), "boot", "pids"),
            Outside(**parts),
            embedded=embedded,
            notifier=notifier,
            clock=lambda: Instant(self.kernel.now),
        )
        self.stays = True
        self.server.connected = False
        if greeted:
            self.connect(connected=True)

    def start(self, uid: str = "run", **settings: Any) -> FakeProcess:
        """Have a run started; return its leader."""
        output = f"/{uid}.log"
        self.deliver(
            wire.Start(
                uid=wire.RunUid(uid),
                epoch=1,
                command=("anything",),
                env={},
                output_path=output,
                **settings,
            )
        )
        return next(reversed(self.kernel.processes.values()))

    def deliver(self, *messages: wire.ToExecutor) -> None:
        """Let the daemon send messages, and the executor act on them."""
        self.server.inbox += messages
        self.run_for(0)

    def connect(self, *, connected: bool) -> None:
        """Let the daemon come or go."""
        self.server.connected = self.server.knocks = connected
        self.run_for(0)

    def shut_down(self) -> None:
        """Do what SIGTERM does."""
        self.executor.shut_down()
        self.run_for(0)

    def stand_still(self, seconds: float, happens: Callable[[], object] = lambda: None) -> None:
        """Let the executor be stopped while it waits, and what happens meanwhile happen."""
        self.kernel.stop = seconds, happens
        self.run_for(0.001)
        assert self.kernel.stop is None

    def end(self, uid: str = "run", **more: Any) -> None:
        self.deliver(wire.End(uid=wire.RunUid(uid), reason="cancelled", **more))

    def run_for(self, seconds: float) -> bool:
        """Let time pass; False when the executor has left."""
        until = self.kernel.now + seconds
        while self.stays:
            self.stays = self.executor.step(timeout=max(0.0, until - self.kernel.now))
            if self.kernel.now >= until and not self.kernel.wait(0):
                break
        return self.stays

    def sent(self, kind: type[M]) -> list[M]:
        return [message for message in self.server.sent if isinstance(message, kind)]

    def last(self, kind: type[M]) -> M:
        return self.sent(kind)[-1]

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]
