"""The demo's criteria for a kept promise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dispatcher.demo.cast import cast
from dispatcher.demo.proof import as_promised
from dispatcher.model import Outcome

(MISSING,) = (part for part in cast(Path("trail")) if part.name == "missing")


@dataclass
class Ran:
    """The examined fields of a run."""

    fence: int
    outcome: Outcome
    started_at: int | None = None


FAILED = Outcome.SPAWN_FAILED


@pytest.mark.parametrize(
    ("kept", "runs"),
    [
        (True, [Ran(1, FAILED), Ran(2, FAILED)]),
        (True, [Ran(1, FAILED), Ran(2, Outcome.ORPHANED), Ran(3, FAILED)]),
        (False, [Ran(1, FAILED), Ran(2, Outcome.ORPHANED, started_at=1), Ran(3, FAILED)]),
        (False, [Ran(1, FAILED), Ran(3, FAILED)]),
        (False, [Ran(1, FAILED)]),
        (False, [Ran(1, FAILED), Ran(2, FAILED), Ran(3, FAILED)]),
    ],
)
def test_a_claim_that_died_with_the_daemon_before_its_start_breaks_no_promise(
    kept: bool, runs: Any
) -> None:
    assert kept == as_promised(MISSING, runs).kept
