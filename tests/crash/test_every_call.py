"""Daemon, executor or both die at a call that leaves the process, before, within or after it.

Normally at each kind of call once in each play, in the middle of its calls; the casts take turns,
so that each kind of call meets each cast too. With FUZZ=1 each cast dies at every call. One point
again: ``CRASH_POINT=store.commit:after:3``.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from tests.crash import sites
from tests.crash.judges import judge
from tests.crash.mortal import AFTER, BEFORE, WITHIN, Fate, Point
from tests.crash.plays import CASTS, PLAYS, perform
from tests.crash.stage import Stage

FUZZ = "FUZZ" in os.environ

#: Tests for one play and cast.
SHARES = 4 if FUZZ else 1

#: Every kind of call, by who makes it. A kind's place gives its turn, so the order is fixed.
KINDS = {
    who: [
        (site, moment)
        for site, has_half in found.items()
        for moment in (BEFORE, WITHIN, AFTER)
        if moment != WITHIN or has_half
    ]
    for who, found in (("daemon", sites.of_daemon()), ("executor", sites.of_executor()))
}


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("play", PLAYS)
def test_nothing_is_lost_or_doubled_when_they_die_at_a_call(
    play: str, cast: str, share: int, template: Path
) -> None:
    for point in points_of(play, cast, template)[share::SHARES]:
        with Stage(template) as stage:
            try:
                judge(perform(play, stage, CASTS[cast], point))
            except AssertionError as error:
                error.add_note(f"again with CRASH_POINT={point}")
                raise


def points_of(play: str, cast: str, template: Path) -> list[Point]:
    """Return where a cast dies in a play."""
    if "CRASH_POINT" in os.environ:
        return [Point.parse(os.environ["CRASH_POINT"])]
    mortal = CASTS[cast].mortal
    fate = undisturbed(play, mortal, template)
    if FUZZ:
        return fate.points()
    return [
        Point(site, moment, (fate.calls[site] + 1) // 2)
        for site, moment in turns(play, cast)
        if fate.calls[site]
    ]


def turns(play: str, cast: str) -> list[tuple[str, str]]:
    """Return the kinds of call at which this cast, of all with the same mortal, dies in a play."""
    mortal = CASTS[cast].mortal
    casts = [name for name, other in CASTS.items() if other.mortal == mortal]
    first = casts.index(cast) + list(PLAYS).index(play)
    return KINDS[mortal][first % len(casts) :: len(casts)]


@cache
def undisturbed(play: str, mortal: str, template: Path) -> Fate:
    """Return the calls of a play without a death."""
    with Stage(template) as stage:
        played = perform(play, stage, CASTS[mortal])
        judge(played)
        return played.fates[mortal]


@pytest.mark.parametrize("mortal", KINDS)
def test_each_kind_of_call_has_its_turn_in_each_play_and_with_each_cast(mortal: str) -> None:
    casts = [name for name, cast in CASTS.items() if cast.mortal == mortal]
    of_play = {play: [kind for cast in casts for kind in turns(play, cast)] for play in PLAYS}
    of_cast = {cast: {kind for play in PLAYS for kind in turns(play, cast)} for cast in casts}

    for kinds in of_play.values():
        assert sorted(KINDS[mortal]) == sorted(kinds)
    for met in of_cast.values():
        assert set(KINDS[mortal]) == met
