"""Processes that stand still: by SIGSTOP, or because the host froze them."""

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.eventually import eventually

#: Where the unified hierarchy is, alone or with the old one.
_CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


@contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop processes while the block lasts; they go on in the same order. Some may end before."""
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in processes:
            eventually(lambda process=process: _expect_stopped(process))
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextmanager
def frozen(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Freeze processes as a host that is suspended does: no signal, and all at one instant."""
    root = next((path for path in _CGROUPS if (path / "cgroup.controllers").exists()), None)
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no cgroup v2 that may be written to: nobody can be frozen")
    homes = {}
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            homes[process.pid] = _group_of(process, root)
    group = Path(tempfile.mkdtemp(prefix="dispatcher-frozen-", dir=root))
    try:
        for pid in homes:
            _move(pid, group)
        (group / "cgroup.freeze").write_text("1")
        eventually(lambda: _expect_frozen(group))
        yield
    finally:
        (group / "cgroup.freeze").write_text("0")
        for pid in (group / "cgroup.procs").read_text().split():
            _move(int(pid), homes.get(int(pid), root))
        eventually(lambda: _remove(group))


def _group_of(process: psutil.Process, root: Path) -> Path:
    lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
    return root / next(line for line in lines if line.startswith("0::"))[len("0::/") :]


def _move(pid: int, group: Path) -> None:
    with suppress(ProcessLookupError):
        (group / "cgroup.procs").write_text(str(pid))


def _remove(group: Path) -> None:
    try:
        group.rmdir()
    except OSError as error:
        raise AssertionError(str(error)) from error


def _expect_frozen(group: Path) -> None:
    assert "frozen 1" in (group / "cgroup.events").read_text()


def _expect_stopped(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        assert process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
