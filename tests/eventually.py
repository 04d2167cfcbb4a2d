"""The only place in the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], *, within: float = 5.0, every: float = 0.02) -> T:
    """Poll until `probe` stops raising AssertionError; return what it returned."""
    deadline = time.monotonic() + within
    while True:
        try:
            return probe()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(every)
