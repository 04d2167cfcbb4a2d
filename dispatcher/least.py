"""The least of many numbers that change, at a cost that does not depend on how many others wait."""

import heapq
import math
from typing import Generic, TypeVar

T = TypeVar("T")

#: Outdated entries that are always kept: fewer are not worth a rebuilding.
SPARE = 64


class Least(Generic[T]):
    """A number for each of some things, as the instant when one is due, or a duration.

    A heap that keeps outdated entries until their turn: a number that grows, as most do, costs
    nothing until then.
    """

    def __init__(self) -> None:
        self._numbers: dict[T, float] = {}
        self._entries: list[tuple[float, int, T]] = []
        """The heap. The second number keeps the order of things with the same."""
        self._first: dict[T, float] = {}
        """The least entry of each thing; its others are outdated."""
        self._order = 0

    def set(self, thing: T, number: float) -> None:
        """Give a thing its number, in place of an earlier one; an infinite one counts as none."""
        if number == math.inf:
            self.remove(thing)
            return
        self._numbers[thing] = number
        if number < self._first.get(thing, math.inf):
            self._push(thing, number)
            self._drop_outdated()

    def remove(self, thing: T) -> None:
        """Forget a thing's number, if it has one."""
        if self._numbers.pop(thing, None) is not None:
            self._drop_outdated()

    def clear(self) -> None:
        """Forget all numbers."""
        self._numbers.clear()
        self._first.clear()
        self._entries.clear()

    @property
    def size(self) -> int:
        """How many entries are kept, outdated ones too: at most twice as many as things, or few."""
        return len(self._entries)

    @property
    def value(self) -> float:
        """The least number; infinite without any."""
        while self._entries:
            entry, _, thing = self._entries[0]
            number = self._numbers.get(thing)
            if entry == number:
                return entry
            heapq.heappop(self._entries)
            if entry == self._first.get(thing):  # the number has grown, or was removed
                del self._first[thing]
                if number is not None:
                    self._push(thing, number)
        return math.inf

    def take(self, most: float) -> list[T]:
        """Forget the numbers up to this one, and return their things, the least first."""
        return [thing for thing, _ in self._taken(most)]

    def up_to(self, most: float) -> list[T]:
        """Return the things with numbers up to this one, the least first."""
        found = self._taken(most)
        for thing, number in found:
            self.set(thing, number)
        return [thing for thing, _ in found]

    def _taken(self, most: float) -> list[tuple[T, float]]:
        taken: list[tuple[T, float]] = []
        while self._numbers and self.value <= most:
            number, _, thing = heapq.heappop(self._entries)
            del self._numbers[thing], self._first[thing]
            taken.append((thing, number))
        return taken

    def _push(self, thing: T, number: float) -> None:
        self._order += 1
        self._first[thing] = number
        heapq.heappush(self._entries, (number, self._order, thing))

    def _drop_outdated(self) -> None:
        """Rebuild the heap once most of it is outdated."""
        if self.size > 2 * len(self._numbers) + SPARE:
            in_order = enumerate(self._numbers.items())
            self._entries = [(number, order, thing) for order, (thing, number) in in_order]
            heapq.heapify(self._entries)
            self._first, self._order = dict(self._numbers), len(self._entries)
