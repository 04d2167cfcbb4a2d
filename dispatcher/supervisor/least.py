"""The least of many numbers that change, without a look at the others."""

import math
from heapq import heapify, heappop, heappush

from dispatcher.wire import RunUid

#: Numbers that no longer hold and may wait in the heap, beside as many as hold.
SPARE = 64


class Least:
    """A number for each of some runs: seconds, or an instant.

    A heap has the numbers in their order. It keeps one that was changed or removed until that comes
    first, or until such are the most of it. So each call costs a few comparisons.
    """

    def __init__(self) -> None:
        self._numbers: dict[RunUid, float] = {}
        self._heap: list[tuple[float, RunUid]] = []

    def set(self, uid: RunUid, number: float) -> None:
        """Give a run its number, in place of an earlier one; an infinite one counts as none."""
        if number == math.inf:
            self.remove(uid)
        elif self._numbers.get(uid) != number:
            self._numbers[uid] = number
            heappush(self._heap, (number, uid))
            if len(self._heap) > 2 * len(self._numbers) + SPARE:
                self._heap = [(number, uid) for uid, number in self._numbers.items()]
                heapify(self._heap)

    def remove(self, uid: RunUid) -> None:
        """Forget a run's number, if it has one."""
        self._numbers.pop(uid, None)

    def clear(self) -> None:
        """Forget all numbers."""
        self._numbers.clear()
        self._heap.clear()

    @property
    def value(self) -> float:
        """The least number; infinite without any."""
        heap, numbers = self._heap, self._numbers
        while heap and numbers.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def up_to(self, most: float) -> list[RunUid]:
        """Return the runs whose number is at most this finite one, the least first."""
        found: dict[RunUid, float] = {}
        while self.value <= most:
            number, uid = heappop(self._heap)
            found[uid] = number
        for uid, number in found.items():
            heappush(self._heap, (number, uid))
        return [*found]
