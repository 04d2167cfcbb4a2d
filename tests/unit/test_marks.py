"""The mark of a run's processes: what it encodes, and what is none."""

import os
import resource
import subprocess
import sys

import pytest

from dispatcher.host.marks import mark_in, mark_of, read_mark, why_unmarked

UID = "0123456789abcdef" * 2


def test_a_mark_is_61_bits_of_the_uid_above_every_limit_that_anybody_sets() -> None:
    mark = mark_of(UID)

    assert 2**62 + (int(UID, 16) & (2**61 - 1)) == mark
    assert mark == mark_in(mark)
    assert 0 == mark_of("no hexadecimal number")


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, 0, 1_000_000, 2**62 - 1, 2**63 - 1])
def test_an_ordinary_limit_is_not_a_mark(limit: int) -> None:
    assert 0 == mark_in(limit)


def test_a_process_and_what_it_left_behind_when_it_died_carry_the_mark() -> None:
    """A zombie still has it, so that what it may have left is looked for in the right run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    assert why_unmarked() is None
    resource.setrlimit(resource.RLIMIT_RTTIME, (mark_of(UID), hard))
    try:
        assert "another dispatcher" in str(why_unmarked())
        child = subprocess.Popen(["env", "-i", sys.executable, "-c", "input()"], stdin=-1)
    finally:
        resource.setrlimit(resource.RLIMIT_RTTIME, (soft, hard))

    alive = read_mark(child.pid)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    dead = read_mark(child.pid)
    child.wait()

    assert (mark_of(UID), mark_of(UID), 0) == (alive, dead, read_mark(os.getpid()))
    with pytest.raises(ProcessLookupError):
        read_mark(child.pid)
