"""How much of each limit is left for a claim, and which tasks it may take of it. Pure."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from dispatcher.limit_views import LimitView
from dispatcher.named_limits import NO_LIMITS, Rule
from dispatcher.times import StoreTime

NONE_JUDGED: Final[Mapping[str, int | None]] = MappingProxyType({})


class Room:
    """What is left of each limit for one claim; a limit that is not in it has room for all.

    Tasks are offered in the order of their queue. One that needs more of a limit than is left
    keeps what is left from those behind it: so a task that takes much starts in its turn. One that
    needs more than the limit ever allows has no turn, and keeps nothing.
    """

    def __init__(
        self,
        left: Mapping[str, int],
        opens_at: StoreTime | None = None,
        *,
        most: Mapping[str, int] = NO_LIMITS,
    ) -> None:
        """`most`: how much of a limit one task may take; more of others."""
        self._left, self._most = {**left}, most
        self.opens_at = opens_at
        """When there may be more, by itself; None: not by itself."""

    def most(self, takes: Mapping[str, int], limit: int) -> int:
        """Return how many tasks that take so much are worth reading: at most `limit`."""
        if any(many > self._most.get(name, many) for name, many in takes.items()):
            return 0
        left = [(self._left[name], many) for name, many in takes.items() if name in self._left]
        if any(some <= 0 for some, _ in left):
            return 0
        return min([limit, *(max(1, some // many) for some, many in left)])

    def admits(self, takes: Mapping[str, int]) -> bool:
        """Take the room for a task, if there is enough of each limit."""
        known = {name: many for name, many in takes.items() if name in self._left}
        if any(self._left[name] <= 0 for name in known):
            return False
        if short := [name for name, many in known.items() if self._left[name] < many]:
            for name in short:
                self._left[name] = 0
            return False
        for name, many in known.items():
            self._left[name] -= many
        return True


def room(
    views: Iterable[LimitView],
    *,
    busy: Iterable[str] = (),
    judged: Mapping[str, int | None] = NONE_JUDGED,
    now: StoreTime,
) -> Room:
    """Return the room of some limits; of those that another node claims with there is none.

    `judged`: what a breaker lets start, whether its limit is closed or not; None: any number.
    """
    left, mosts = dict.fromkeys(busy, 0), {}
    opens: list[StoreTime] = []
    for view in views:
        if (closed := view.closed(now)) is not None and judged.get(view.name, 0) == 0:
            left[view.name] = 0
            opens += [at] if (at := closed.ends_at(now)) is not None else []
            continue
        rule = view.rule or Rule()
        bounds = [] if rule.concurrency is None else [rule.concurrency - view.held]
        bounds += [one] if (one := judged.get(view.name)) is not None else []
        if rule.rate is not None:
            bounds.append(rule.rate.many - view.started)
            opens.append(view.next_start_at or StoreTime(now + rule.rate.window_ms))
        if bounds:
            left[view.name] = max(0, min(bounds))
        if rule.most is not None:
            mosts[view.name] = rule.most
    return Room(left, min(opens, default=None), most=mosts)
