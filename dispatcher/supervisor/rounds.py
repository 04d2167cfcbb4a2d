"""Where the claims of queues with very many lanes go on."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Self

NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Rounds:
    """For each queue of which one claim could not look at all lanes: how far it is.

    A claim looks at some lanes, and the next one at those behind them. One that finds too little is
    followed by another, until a whole round, from the first lane to the last, has found nothing.
    """

    def __init__(self, after: Mapping[str, str] = NONE, whole: Iterable[str] = ()) -> None:
        self._after = {**after}
        """By queue, the lane behind which the next claim looks."""
        self._whole = {*whole}
        """Queues whose round began at the first lane, and has found nothing."""

    def copy(self) -> Self:
        """Return the same for a transaction, which may have to be repeated."""
        return type(self)(self._after, self._whole)

    def after(self, queue: str) -> str:
        """Return the lane behind which the next claim of a queue looks."""
        return self._after.get(queue, "")

    def begin_anew(self) -> None:
        """Let another whole round follow: any lane may have got tasks."""
        self._whole.clear()

    def goes_on(self, queue: str, last: str | None, *, is_enough: bool) -> bool:
        """Record which lane a claim looked at last (None: all that were left).

        `is_enough`: whether it claimed all that it should. Returns whether to claim again at once.
        """
        is_whole = not self.after(queue) or queue in self._whole
        self._whole.discard(queue)
        if last is None:
            self._after.pop(queue, None)
            return not (is_enough or is_whole)
        self._after[queue] = last
        if is_whole and not is_enough:
            self._whole.add(queue)
        return not is_enough
