"""Limits as Python programs give them."""

from typing import Any

import pytest

from dispatcher.config import limits
from dispatcher.errors import InvalidTask
from dispatcher.model import Liveness
from dispatcher.new_task import NewTask


def task(**wanted: Any) -> NewTask:
    return NewTask(**{"command": ("true",), "max_attempts": 1, "lease_ttl_ms": 60_000, **wanted})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"run_timeout_ms": 0}, "run_timeout: must be above 0; leave it out for none"),
        ({"kill_grace_ms": -1}, "kill_grace: must be 0 or more"),
        ({"cooldown_ms": -1}, "cooldown: must be 0 or more"),
        ({"backoff_min_ms": 900_001}, r"backoff_min: 900001ms is more than backoff_max \(15m\)"),
        ({"backoff_max_ms": 9_999}, r"backoff_min: 10s is more than backoff_max \(9999ms\)"),
        ({"backoff_max_ms": 10**12}, "backoff_max: .* is longer than"),
        ({"kill_signal": 65}, "kill_signal: 65 is not a signal"),
        ({"start_timeout_ms": 1}, "start_timeout: waits for a first heartbeat"),
    ],
)
def test_mistakes_are_reported_with_their_remedy(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTask, match=message):
        limits.check(task(**wanted))


def test_equal_bounds_are_possible() -> None:
    limits.check(
        task(
            liveness=Liveness.WORKER,
            run_timeout_ms=60_000,
            stall_timeout_ms=60_000,
            start_timeout_ms=60_000,
            queue_timeout_ms=60_000,
            total_timeout_ms=60_000,
            kill_grace_ms=0,
            kill_signal=9,
            backoff_min_ms=1,
            backoff_max_ms=1,
        )
    )
