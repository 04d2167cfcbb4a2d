"""A round from its seed to its verdict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.e2e.world import World
from tests.rounds.judges import Verdict, judge
from tests.rounds.node import Node
from tests.rounds.round import Round, Seen


def play(seed: int, bytecode: Path, *, keep: Path | None = None) -> tuple[Seen, Verdict]:
    """Play a round; return what was seen and what is wrong with it. Its files go, if nothing is."""
    directory = Path(tempfile.mkdtemp(prefix="round-"))
    world = World(directory, bytecode)
    verdict = Verdict(others=["it did not end"])
    try:
        with Node(world) as node:
            round_ = Round(seed, world, node)
            try:
                verdict = judge(round_.play())
            except AssertionError as error:
                verdict = Verdict(others=[f"{type(error).__name__}: {error}"])
        try:
            world.close()
        except AssertionError as error:
            verdict.others.append(str(error))
        return round_.seen, verdict
    finally:
        if keep is not None and verdict.complaints:
            shutil.copytree(directory, keep / str(seed), dirs_exist_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
