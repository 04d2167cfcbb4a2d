"""Daemon, executor or both die at a call that leaves the process, before, within or after it.

Normally at the first and the last call of every kind and at some between, with FUZZ=1 at each. One
point again: ``CRASH_POINT=store.commit:after:3``.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from tests.crash.judges import judge
from tests.crash.mortal import Point
from tests.crash.plays import CASTS, PLAYS, perform
from tests.crash.stage import Stage

FUZZ = "FUZZ" in os.environ

#: Tests for one play and cast.
SHARES = 4

#: One in so many calls between the first and the last of a kind.
STRIDE = 17


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("play", PLAYS)
def test_nothing_is_lost_or_doubled_when_they_die_at_a_call(
    play: str, cast: str, share: int, template: Path
) -> None:
    for point in points_of(play, CASTS[cast].mortal, template)[share::SHARES]:
        with Stage(template) as stage:
            try:
                judge(perform(play, stage, CASTS[cast], point))
            except AssertionError as error:
                error.add_note(f"again with CRASH_POINT={point}")
                raise


@cache
def points_of(play: str, mortal: str, template: Path) -> list[Point]:
    """Return where to die: what a play without a death passes."""
    if "CRASH_POINT" in os.environ:
        return [Point.parse(os.environ["CRASH_POINT"])]
    with Stage(template) as stage:
        played = perform(play, stage, CASTS[mortal])
        judge(played)
        fate = played.fates[mortal]
        points = fate.points()
    if FUZZ:
        return points
    return [
        point
        for number, point in enumerate(points)
        if point.number in {1, fate.calls[point.site]} or number % STRIDE == 0
    ]
