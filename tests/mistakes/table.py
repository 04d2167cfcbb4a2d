"""The table of mistakes, whole: tests make each of them, docs/mistakes.md is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.mistakes import commands, configuration, hosts, submitting, working
from tests.mistakes.kinds import CannotStart, Mistake

MISTAKES: Mapping[str, Sequence[Mistake]] = {
    **configuration.GROUPS,
    **submitting.GROUPS,
    **working.GROUPS,
    **hosts.GROUPS,
}

CANNOT_START: Sequence[CannotStart] = commands.CANNOT_START
