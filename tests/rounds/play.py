"""A round from its seed to its verdict."""

import shutil
import tempfile
from pathlib import Path

from tests.e2e.world import World
from tests.rounds.judges import Verdict, judge
from tests.rounds.node import Node
from tests.rounds.round import Round, Seen


def play(seed: int, bytecode: Path, *, keep: Path | None = None) -> tuple[Seen, Verdict]:
    """Play a round; return what was seen, and what is wrong with it. Nothing of it stays.

    With `keep` its files do, below that directory, if anything is wrong.
    """
    directory = Path(tempfile.mkdtemp(prefix="round-"))
    try:
        world = World(directory, bytecode)
        seen, verdict = _play(seed, world)
        verdict.others.extend(_close(world))
        if keep is not None and verdict.complaints:
            shutil.copytree(directory, keep / str(seed), dirs_exist_ok=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return seen, verdict


def _play(seed: int, world: World) -> tuple[Seen, Verdict]:
    with Node(world) as node:
        played = Round(seed, world, node)
        try:
            return played.seen, judge(played.play())
        except AssertionError as error:
            complaints = [f"it did not come to its end: {error}", *played.unsettled()]
            return played.seen, Verdict(others=complaints)


def _close(world: World) -> list[str]:
    """Return what is wrong with the log, if anything is."""
    try:
        world.close()
    except AssertionError as error:
        return [str(error)]
    return []
