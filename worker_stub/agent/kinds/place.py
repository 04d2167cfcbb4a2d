"""Where words go into an agent's command."""

from collections.abc import Sequence
from pathlib import PurePath


def after_program(command: Sequence[str], *programs: str) -> int | None:
    """Return the place after a program, also behind a wrapper as npx; None: it is not there."""
    for place, word in enumerate(command):
        if PurePath(word).name in programs or word.rpartition("@")[0] in programs:
            return place + 1
    return None


def without(words: Sequence[str], option: str) -> list[str]:
    """Return words without an option and its value."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == option:
            next(rest, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
