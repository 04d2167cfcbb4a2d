"""Which queues get the free slots, by their weights: they take turns. Pure.

A queue's turn is as many claims as its weight, however many slots are free at a time. A queue that
has no task to claim in its turn gives up the rest of it: what it did not use is never made up for.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct


class LastTurn(Struct, frozen=True):
    """Whose turn it was last."""

    queue: str = ""
    left: int = 0
    """How many more claims belong to its turn; 0: the turn of the next queue begins."""


#: Before the first claim.
NOBODY: Final = LastTurn()


class Shares(Struct, frozen=True):
    """How many tasks to claim of each queue, and whose turn it then is."""

    shares: Sequence[int]
    then: LastTurn


def shares(free: int, queues: Sequence[tuple[str, int]], last_turn: LastTurn = NOBODY) -> Shares:
    """Share free slots among queues with tasks, given in the order of their turns with weights.

    The first one goes on with its turn, if it is the one of `last_turn`.
    """
    turns = [weight for _, weight in queues]
    if last_turn.left and queues[0][0] == last_turn.queue:
        turns[0] = min(turns[0], last_turn.left)
    first = _walk(free, turns)
    free -= sum(first)
    weights = [weight for _, weight in queues]
    rounds, rest = divmod(free, sum(weights))
    last = _walk(rest, weights)
    found = [
        one + rounds * weight + more for one, weight, more in zip(first, weights, last, strict=True)
    ]
    ended, of = (last, weights) if rest else (first, turns) if not rounds else (weights, weights)
    place = max(n for n, one in enumerate(ended) if one)
    return Shares(found, LastTurn(queues[place][0], of[place] - ended[place]))


def _walk(free: int, turns: Sequence[int]) -> list[int]:
    """Return how much of each turn is used, in one round."""
    used = []
    for turn in turns:
        used.append(min(free, turn))
        free -= used[-1]
    return used


class Sharing:
    """Free slots, as they are shared among queues in one tick."""

    def __init__(self, free: int, weights: Mapping[str, int], last_turn: LastTurn) -> None:
        """`weights`: those of queues that have not the weight 1."""
        self.free, self._weights = free, weights
        self.last_turn = last_turn
        """Whose turn it is once all that was shared is claimed."""
        self._planned: deque[int] = deque()

    def share(self, queues: Sequence[str]) -> int:
        """Return how many tasks to claim of the first of these queues; the others come next."""
        if not self._planned:
            weighted = [(queue, self._weights.get(queue, 1)) for queue in queues]
            found = shares(self.free, weighted, self.last_turn)
            self._planned, self.last_turn = deque(found.shares), found.then
        return self._planned.popleft()

    def claimed(self, queue: str, share: int, many: int) -> None:
        """Record how many tasks of its share were claimed; a queue with fewer ends its turn."""
        self.free -= many
        if many < share:
            self._planned.clear()
            self.last_turn = LastTurn(queue)
