"""Where else the product is tested: with another /proc, below another init.

A mount ends with the last process that sees it, a namespace with its init: both with their test.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from tests.crash.family import bury
from tests.e2e.world import World
from tests.eventually import eventually

_INIT = str(Path(__file__).with_name("init.py"))

#: Seconds for what comes at once on a host that is not busy.
PATIENCE = 20.0

#: The first kernel whose pid namespaces have a `pid_max` each; before, it is everybody's.
PID_MAX_OF_ITS_OWN = (6, 14)

#: Mounts a /proc for the following command alone.
_MOUNTS = 'mount -t proc -o "$0" proc /proc && exec "$@"'


def sees_proc(world: World, options: str) -> None:
    """Let every command of a world see a /proc that was mounted with these options."""
    world.prefix = ("unshare", "--mount", "sh", "-c", _MOUNTS, options, *world.prefix)


#: Takes the pids below 300, which are given away only once.
_TAKES_LOW_PIDS = "while [ $(sh -c 'echo $$') -lt 300 ]; do :; done"


class Namespace:
    """A pid namespace whose init reaps. A context manager that leaves nobody behind."""

    def __init__(self, *, pid_max: int | None = None, network: bool = False) -> None:
        """`network`: it also has a network of its own, without any link."""
        self._kinds = ("--pid", "--net") if network else ("--pid",)
        if pid_max is not None and _kernel() < PID_MAX_OF_ITS_OWN:
            pytest.skip(f"before Linux {PID_MAX_OF_ITS_OWN} a namespace has no pid_max of its own")
        self._pid_max = pid_max

    def __enter__(self) -> Self:
        isolated = ("unshare", *self._kinds, "--fork", "--kill-child", "--mount-proc")
        self._unshare = subprocess.Popen([*isolated, sys.executable, "-I", "-S", _INIT])
        try:
            self._init = eventually(self._find_init, patience=PATIENCE)
            self.prefix = ("nsenter", f"--target={self.pid}", *self._kinds, "--mount")
            if self._pid_max is not None:
                self.run("sh", "-c", f"echo {self._pid_max} > /proc/sys/kernel/pid_max")
                self.run("sh", "-c", _TAKES_LOW_PIDS)
        except BaseException:
            self._unshare.kill()
            self._unshare.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._unshare.kill()  # which kills its child, init; the kernel ends all others
        self._unshare.wait()
        eventually(lambda: expect_gone(self._init), patience=PATIENCE)

    @property
    def pid(self) -> int:
        """The pid of its init, as seen from here."""
        return self._init.pid

    def processes(self) -> list[psutil.Process]:
        """Return everybody in it but its init."""
        mine = os.readlink(f"/proc/{self._init.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == mine and process != self._init:
                    found.append(process)
        return found

    def process(self, pid: int) -> psutil.Process | None:
        """Return who has this pid in it; None: nobody."""
        for process in self.processes():
            with suppress(OSError, psutil.NoSuchProcess):
                if _pid_in_its_namespace(process.pid) == pid:
                    return process
        return None

    def _find_init(self) -> psutil.Process:
        children = psutil.Process(self._unshare.pid).children()
        assert children, "unshare has not forked yet"
        # Before its exec it still is unshare, and sees our /proc.
        assert _INIT in children[0].cmdline(), children[0]
        return children[0]

    def run(self, *command: str) -> None:
        """Run a command in it to its end, as root."""
        subprocess.run([*self.prefix, *command], check=True)


class Entered(subprocess.Popen[bytes]):
    """A command in a namespace: `nsenter` waits for it here, and signals are for the command."""

    command: psutil.Process | None = None

    def __init__(self, command: list[str], **how: Any) -> None:
        super().__init__(command, **how)
        self.command = eventually(self._find_command, patience=PATIENCE)

    def send_signal(self, signum: int) -> None:
        if self.poll() is None and self.command is not None:
            with suppress(psutil.NoSuchProcess):
                self.command.send_signal(signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _find_command(self) -> psutil.Process | None:
        children = psutil.Process(self.pid).children()
        assert children or self.poll() is not None, "nsenter has not forked yet"
        return children[0] if children else None


class Elsewhere(World):
    """A world whose commands run in a pid namespace."""

    def __init__(self, directory: Path, bytecode: Path, namespace: Namespace) -> None:
        super().__init__(directory, bytecode)
        self.namespace = namespace
        self.prefix = (*namespace.prefix, f"--wdns={directory}")

    def process_of(self, command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        return Entered(command, **how)


def expect_gone(process: psutil.Process) -> None:
    bury(process.pid)  # it may have become our child
    assert not process.is_running(), process


def _pid_in_its_namespace(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    raise ProcessLookupError(pid)


def _kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in os.uname().release.split(".")[:2])
