"""When each of many things is due, at a cost that does not depend on how many others wait."""

import heapq
from typing import Generic, TypeVar

from dispatcher.times import NEVER, Instant

T = TypeVar("T")

#: Outdated entries that are always kept: fewer are not worth a rebuilding.
LEAST_KEPT = 64


class Agenda(Generic[T]):
    """Things by the instants at which they are due.

    A heap that keeps outdated entries until their turn: a thing that is put off, as most are, costs
    nothing until then.
    """

    def __init__(self) -> None:
        self._due: dict[T, Instant] = {}
        self._entries: list[tuple[Instant, int, T]] = []
        """The heap. The number keeps the order of things that are due together."""
        self._first: dict[T, Instant] = {}
        """The earliest entry of each thing; its others are outdated."""
        self._number = 0

    def plan(self, thing: T, at: Instant) -> None:
        """Let a thing be due at an instant, in place of the one before; `NEVER` drops it."""
        if at == NEVER:
            self.drop(thing)
            return
        self._due[thing] = at
        if at < self._first.get(thing, NEVER):
            self._push(thing, at)

    def drop(self, thing: T) -> None:
        """Forget a thing; one that is not planned is none."""
        if self._due.pop(thing, None) is not None and self.size > 2 * len(self._due) + LEAST_KEPT:
            self._entries = [
                (at, number, one) for number, (one, at) in enumerate(self._due.items())
            ]
            heapq.heapify(self._entries)
            self._first, self._number = dict(self._due), len(self._entries)

    @property
    def size(self) -> int:
        """How many entries are kept, outdated ones too: at most twice as many as things, or few."""
        return len(self._entries)

    def clear(self) -> None:
        """Forget all."""
        self._due.clear()
        self._first.clear()
        self._entries.clear()

    @property
    def due(self) -> Instant:
        """When the next thing is due; `NEVER` if none is planned."""
        while self._entries:
            at, _, thing = self._entries[0]
            due = self._due.get(thing)
            if at == due:
                return at
            heapq.heappop(self._entries)
            if at == self._first.get(thing):  # it was put off, or dropped
                del self._first[thing]
                if due is not None:
                    self._push(thing, due)
        return NEVER

    def take(self, at: Instant) -> list[T]:
        """Forget all that is due by an instant, and return it, the earliest first."""
        taken: list[T] = []
        while self._due and self.due <= at:
            _, _, thing = heapq.heappop(self._entries)
            del self._due[thing], self._first[thing]
            taken.append(thing)
        return taken

    def _push(self, thing: T, at: Instant) -> None:
        self._number += 1
        self._first[thing] = at
        heapq.heappush(self._entries, (at, self._number, thing))
