"""The executor's system calls, on real processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from dispatcher.executor.kernel import Kernel


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with closing(Kernel()) as kernel:
        yield kernel


def test_a_released_handle_is_quiet_though_somebody_still_has_a_copy(kernel: Kernel) -> None:
    """A child between fork and exec has one; the loop would turn without a pause meanwhile."""
    with subprocess.Popen(["true"]) as process:
        handle = kernel.adopt(process.pid)
        assert handle is not None
        copy = os.dup(handle)
        try:
            assert [handle] == kernel.wait(10)
            kernel.release(handle)
            assert [] == kernel.wait(0)
        finally:
            os.close(copy)
