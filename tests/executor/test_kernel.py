"""The executor's system calls, on real processes."""

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize(("children", "reads"), [(0, 1), (3, 1), (2000, 4)])
def test_the_list_of_our_children_is_read_to_its_end_however_many_pages_it_has(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, children: int, reads: int
) -> None:
    """And not once more where a page was not full: two reads a tick for nothing."""
    pids = [*range(100_000, 100_000 + children)]
    text, positions = b"".join(b"%d " % pid for pid in pids), []

    def read(_descriptor: int, most: int, position: int) -> bytes:
        positions.append(position)
        return text[position : position + min(most, 4095)]  # a page, without its last byte

    monkeypatch.setattr(os, "pread", read)

    assert pids == sorted(kernel.orphans())
    assert [4095 * number for number in range(reads)] == positions


def test_memory_is_reported_only_above_what_this_process_has_had(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child starts with its parent's mark, which only rises and is read when it may matter."""
    ours, asked = [500], []

    def getrusage(_who: int) -> SimpleNamespace:
        asked.append(ours[0])
        return SimpleNamespace(ru_maxrss=ours[0])

    def reaped(most: int) -> int | None:
        usage = SimpleNamespace(ru_maxrss=most, ru_utime=0.0, ru_stime=0.0)
        monkeypatch.setattr(os, "wait4", lambda *_: (1, 0, usage))
        return kernel.reap(1).max_rss_bytes

    monkeypatch.setattr(resource, "getrusage", getrusage)
    assert [None, None, None] == [reaped(500), reaped(500), reaped(499)]
    assert [500] == asked
    assert 501 * 1024 == reaped(501)
    ours[0] = 600
    assert [None, None, 601 * 1024] == [reaped(600), reaped(550), reaped(601)]
