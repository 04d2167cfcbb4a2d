"""The table of mistakes, whole: tests make each of them, docs/mistakes.md is made from it."""

from collections.abc import Mapping, Sequence

from tests.mistakes import claims, commands, configuration, hosts, submitting, tasks
from tests.mistakes.kinds import CannotStart, Mistake

MISTAKES: Mapping[str, Sequence[Mistake]] = {
    **configuration.GROUPS,
    **submitting.GROUPS,
    **tasks.GROUPS,
    **claims.GROUPS,
    **hosts.GROUPS,
}

CANNOT_START: Sequence[CannotStart] = commands.CANNOT_START
