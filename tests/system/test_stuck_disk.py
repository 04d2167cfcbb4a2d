"""A disk that hangs: only processes that need it wait for it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispatcher import wire
from tests.eventually import eventually
from tests.executor.conftest import Home, home, own  # noqa: F401 - fixtures
from tests.executor.workers import lives

#: Bytes of the disk.
SIZE = 32 << 20


@pytest.fixture
def disk(privileged: None, tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, mounted."""
    for program in ("mkfs.ext4", "fsfreeze", "losetup"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    image, mounted = tmp_path / "disk.img", tmp_path / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(mounted)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield mounted
    eventually(lambda: _unmount(mounted))


def _unmount(disk: Path) -> None:
    done = subprocess.run(["umount", str(disk)], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


@contextmanager
def hanging(disk: Path) -> Iterator[None]:
    """Let every write to a disk wait while the block lasts."""
    subprocess.run(["fsfreeze", "--freeze", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=True)


def test_r73_exits_kills_and_pings_wait_for_no_disk(disk: Path, home: Home) -> None:  # noqa: F811
    """The watchdog ended the executor, and every run with it, for a disk that hung for 30 s."""
    home.state_dir, home.outputs = disk / "state", disk / "output"
    home.outputs.mkdir()
    home.executor()
    daemon = home.daemon()
    first, second = (
        daemon.start(["sleep", "1000"], home.output(name), kill_grace=0.1) for name in ("a", "b")
    )
    ends, stays = (daemon.expect(wire.Started, uid).pid for uid in (first, second))

    with hanging(disk):
        os.kill(ends, signal.SIGTERM)
        assert signal.SIGTERM == daemon.expect(wire.Exited, first).exit.signal
        daemon.send(wire.End(uid=second, reason="cancelled"))
        assert "cancelled" == daemon.expect(wire.Exited, second).ended_by
        assert not lives(stays)
        daemon.ping()

    assert home.journal.is_symlink()
    assert home.runtime_dir == home.journal.readlink().parent
