"""The executor's system calls, on real processes."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.executor.system.kernel import Kernel
from tests.eventually import PATIENCE


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with closing(Kernel()) as kernel:
        yield kernel


@pytest.mark.parametrize("renamed", [False, True])
def test_writers_of_an_output_are_found_without_a_call_to_another_filesystem(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, renamed: bool
) -> None:
    """A file on a dead mount made everybody's look fail, or the executor hang."""
    output, other = tmp_path / "uid.log", tmp_path / "on a dead mount"
    with output.open("ab") as ours, other.open("ab") as dead, output.open() as reads:
        command = ["sleep", "1000"]
        writer = subprocess.Popen(command, stdout=ours, stderr=dead, stdin=reads)
        reader = subprocess.Popen(command, stdout=dead, stderr=dead, stdin=reads)
    found = output.stat()
    file = (found.st_dev, found.st_ino)
    if renamed:
        output.rename(tmp_path / "moved.log")
    stat = os.stat

    def fail_on_other(path: str) -> os.stat_result:
        if os.readlink(path) == str(other):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return stat(path)

    monkeypatch.setattr("dispatcher.executor.system.procfs.os.stat", fail_on_other)
    try:
        assert file == kernel.written(writer.pid, {file: str(output)})
        assert kernel.written(reader.pid, {file: str(output)}) is None
    finally:
        monkeypatch.undo()
        for process in (writer, reader):
            process.kill()
            process.wait()


def test_a_released_handle_is_quiet_though_somebody_still_has_a_copy(kernel: Kernel) -> None:
    """A child between fork and exec has one; the loop would turn without a pause meanwhile."""
    with subprocess.Popen(["true"]) as process:
        handle = kernel.adopt(process.pid)
        assert handle is not None
        copy = os.dup(handle)
        try:
            assert [handle] == kernel.wait(PATIENCE)
            kernel.release(handle)
            assert [] == kernel.wait(0)
        finally:
            os.close(copy)
