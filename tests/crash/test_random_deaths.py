"""Each new process may die again, at any call: recovery is not safer than work.

Normally for a few seeds; with FUZZ=1 for FUZZ_MINUTES (10). One again: ``CRASH_SEED=4711``.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher import times
from tests.crash import sites
from tests.crash.judges import judge
from tests.crash.mortal import AFTER, BEFORE, WITHIN, Fate, Point
from tests.crash.plays import CASTS, PLAYS, perform
from tests.crash.stage import Stage

FUZZ = "FUZZ" in os.environ
MINUTES = float(os.environ.get("FUZZ_MINUTES", "10"))

#: Deaths of one play: fewer than the orphans that a task may have.
MOST_DEATHS = 4

SEEDS_OF_A_SHARE = 12


class Doom:
    """Deals out fates."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._left = MOST_DEATHS
        self._sites = {"daemon": sites.of_daemon(), "executor": sites.of_executor()}

    def fate_of(self, who: str) -> Fate:
        if self._left == 0:
            return Fate()
        self._left -= 1
        site, has_half = self._random.choice(list(self._sites[who].items()))
        moments = (BEFORE, WITHIN, AFTER) if has_half else (BEFORE, AFTER)
        # Half of all lives end early.
        number = self._random.choice((self._random.randint(1, 3), self._random.randint(1, 20)))
        return Fate(Point(site, self._random.choice(moments), number))


def seeds(share: int) -> Iterator[int]:
    if "CRASH_SEED" in os.environ:
        yield int(os.environ["CRASH_SEED"])
    elif not FUZZ:
        yield from range(share * SEEDS_OF_A_SHARE, (share + 1) * SEEDS_OF_A_SHARE)
    else:
        ends_at = times.instant() + MINUTES * 60
        while times.instant() < ends_at:
            yield random.randrange(2**32)


@pytest.mark.parametrize("share", range(2))
def test_anyone_may_die_anywhere_and_again(share: int, template: Path) -> None:
    for seed in seeds(share):
        with Stage(template) as stage:
            stage.fate_of = Doom(seed).fate_of
            play = random.Random(seed).choice(list(PLAYS))
            try:
                judge(perform(play, stage, CASTS["executor"]))
            except AssertionError as error:
                error.add_note(f"again with CRASH_SEED={seed}")
                raise
