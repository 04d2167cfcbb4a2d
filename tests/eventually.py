"""The only place in the tests that waits."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which what has not come is taken for a hang. No test bounds a time by it: whatever
#: comes on a slow host comes before, and a test that passes never waits for so long.
PATIENCE = 60.0


def eventually(probe: Callable[[], T], *, patience: float = PATIENCE, every: float = 0.02) -> T:
    """Poll until `probe` stops raising AssertionError; return what it returned."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return probe()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(every)


def let_pass(seconds: float) -> None:
    """Let real time pass: only where it is what a test is about, as nothing can be waited for."""
    time.sleep(seconds)
