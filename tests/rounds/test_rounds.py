"""Random rounds: nobody twice, nobody left, no code but the real one, whoever is killed or stopped.

Normally those of a few seeds; with FUZZ=1 for FUZZ_MINUTES (10). One again:
`python -m tests.rounds --seed 4711`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher import times
from tests.rounds.figures import Figures
from tests.rounds.play import play

FUZZ = "FUZZ" in os.environ
MINUTES = float(os.environ.get("FUZZ_MINUTES", "10"))

pytestmark = pytest.mark.timeout(MINUTES * 60 + 600 if FUZZ else 600)

#: Chosen so that between them everybody is killed, and everybody stopped.
SEEDS = ((5, 10), (66, 322))


def seeds(share: int) -> Iterator[int]:
    if not FUZZ:
        yield from SEEDS[share]
        return
    ends_at = times.instant() + MINUTES * 60
    while times.instant() < ends_at:
        yield random.randrange(2**32)


@pytest.mark.parametrize("share", range(len(SEEDS)))
def test_whoever_is_killed_or_stopped_no_task_has_two_trees_and_no_run_a_wrong_code(
    share: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = Figures()
    for seed in seeds(share):
        seen, verdict = play(seed, tmp_path)
        figures.count(seen, verdict)
        told = [f"seed {seed}: {'; '.join(map(str, seen.faults))}", *verdict.complaints]
        assert not verdict.complaints, "\n".join(told)
    with capsys.disabled():
        print(f"\n{figures}" if FUZZ else "", end="")  # noqa: T201
