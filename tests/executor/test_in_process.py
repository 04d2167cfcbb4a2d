"""The executor as an object of this process, which has other children too."""

import ctypes
import os
import resource
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import times, wire, worker_api
from dispatcher.executor.executor import Executor, ExecutorIdentity
from dispatcher.executor.journal import Journal
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.outside import Outside
from dispatcher.executor.records import Header
from dispatcher.executor.reports import Reporter
from dispatcher.executor.starting import spawn
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from tests.crash.family import Family
from tests.eventually import eventually
from tests.executor.workers import lives
from tests.recorded_logs import RecordedLog
from tests.unit.executor.world import FakeServer


class Here:
    """An executor with the real kernel; its daemon is a list."""

    def __init__(self, directory: Path) -> None:
        self.family = Family()
        self.directory = directory
        self.server = FakeServer()
        self.server.descriptor = None
        self.kernel = Kernel()
        outputs = OutputFiles()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.spawner = Spawner(outputs, environ=os.environ, open_files=limits)
        self.journal = Journal(str(directory / "journal"), Header(boot_id="b", pid_namespace="p"))
        server: Any = self.server
        log: Any = RecordedLog([])
        outside = Outside(
            kernel=self.kernel,
            spawner=self.spawner,
            outputs=outputs,
            server=server,
            notices=Notices(str(directory), self.kernel, server),
            report=Reporter(self.journal, log, server.send),
        )
        self.executor = Executor(ExecutorIdentity("node", str(directory), "b", "p"), outside)
        self.server.knocks = True

    def start(self, *command: str, uid: str) -> None:
        self.server.inbox.append(
            wire.Start(
                uid=wire.RunUid(uid),
                epoch=1,
                command=command,
                env={worker_api.MARKER: uid},
                output_path=str(self.directory / f"{uid}.log"),
            )
        )

    def exits(self) -> int:
        return sum(isinstance(message, wire.Exited) for message in self.server.sent)

    def close(self) -> None:
        self.family.end()
        for part in (self.kernel, self.spawner, self.journal):
            part.close()


@pytest.fixture(params=["few runs", "many runs"])
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Here]:
    """An executor that spawns with its own table of descriptors, or with a small one."""
    if request.param == "many runs":
        monkeypatch.setattr(spawn, "MANY_RUNS", 0)
    here = Here(tmp_path)
    yield here
    here.close()


def test_r30_nobody_elses_child_is_reaped_while_a_thousand_workers_exit(here: Here) -> None:
    started, codes = 0, []
    before = here.kernel.orphans()  # of other tests: a server
    while started < 1000:
        unrelated = subprocess.Popen(["sh", "-c", "exit 7"])
        for _ in range(25):
            here.start("true", uid=str(started))
            started += 1
        while here.exits() < started or lives(unrelated.pid):
            here.executor.step(timeout=0.1)
        here.executor.tree.survey(times.instant())
        codes.append(unrelated.wait())

    assert [7] * 40 == codes
    assert 1000 == here.exits()
    assert {0} == {m.exit.exit_code for m in here.server.sent if isinstance(m, wire.Exited)}
    assert {*here.kernel.orphans()} <= {*before}


def test_an_unrelated_child_is_not_ended_with_any_run(here: Here) -> None:
    unrelated = subprocess.Popen(["sleep", "1000"])
    here.start("sleep", "1000", uid="run")
    here.server.inbox.append(wire.End(uid=wire.RunUid("run"), reason="cancelled", at_once=True))

    while not here.exits():
        here.executor.step(timeout=0.1)

    assert unrelated.poll() is None
    unrelated.kill()
    unrelated.wait()


def test_what_a_leader_leaves_is_found_and_ended(here: Here) -> None:
    """It is handed to the main thread, whichever has spawned the leader."""
    here.start("sh", "-c", "setsid sleep 1000 & sleep 0.1; exit 3", uid="run")

    while not here.exits():
        here.executor.step(timeout=0.1)

    (exited,) = (m for m in here.server.sent if isinstance(m, wire.Exited))
    assert (3, ("sleep",)) == (exited.exit.exit_code, exited.exit.leftovers)


def test_start_ticks_are_the_kernels(here: Here) -> None:
    """They are mostly not read: to answer, the kernel would first finish the exec."""
    for n in range(50):
        here.start("sleep", "1000", uid=str(n))
    while len([m for m in here.server.sent if isinstance(m, wire.Started)]) < 50:
        here.executor.step(timeout=0.1)

    started = {m.pid: m.start_ticks for m in here.server.sent if isinstance(m, wire.Started)}

    found = {pid: process.start_ticks for pid in started if (process := here.kernel.look(pid))}
    assert found == started


def test_r15_a_process_that_took_over_a_pid_is_not_signalled(here: Here) -> None:
    elder = os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ)
    known = here.kernel.look(elder)
    assert known is not None

    def later() -> None:
        assert here.kernel.ticks() > known.start_ticks + 1

    eventually(later)
    os.kill(elder, signal.SIGKILL)
    os.waitpid(elder, 0)
    stranger = process_with_pid(elder)
    if stranger is None:  # only root may choose a pid: the same by other means
        stranger = os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ)
        known = known._replace(pid=stranger)

    assert not here.kernel.signal(known, signal.SIGKILL)

    assert lives(stranger)
    current = here.kernel.look(stranger)
    assert current is not None
    assert here.kernel.signal(current, signal.SIGKILL)
    assert signal.SIGKILL == os.waitpid(stranger, 0)[1]


def process_with_pid(pid: int) -> int | None:
    """Start a process that has this very pid; None when we may not."""
    wanted = (ctypes.c_int * 1)(pid)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
    # set_tid, set_tid_size, cgroup
    address = ctypes.addressof(wanted)
    arguments = struct.pack("11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, address, 1, 0)
    clone3 = 435
    child = ctypes.CDLL(None, use_errno=True).syscall(clone3, arguments, len(arguments))
    if child == 0:
        os.execv("/bin/sleep", ["sleep", "1000"])
    return None if child < 0 else child
