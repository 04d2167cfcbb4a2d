"""Death at a chosen call: a wrapped object dies before, within or after its n-th.

Nothing in the product knows of this: its collaborators are wrapped where they are put together.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Self

#: When, as seen from the call: not yet, half, done.
BEFORE, WITHIN, AFTER = "before", "within", "after"


class Died(BaseException):
    """The process is dead. What it did before this call is done, and nothing follows."""


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of one call, written ``site:moment:number``; number 0: of any."""

    site: str
    moment: str
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        site, moment, number = text.split(":")
        return cls(site, moment, int(number))

    def __str__(self) -> str:
        return f"{self.site}:{self.moment}:{self.number}"


def die_here() -> NoReturn:
    """Unwind, as near to death as a test process can come without dying itself."""
    raise Died


def kill_this_process() -> NoReturn:
    """Die as by `kill -9`: nothing is unwound."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")


class Fate:
    """Counts calls by their site, and kills at one of them."""

    def __init__(
        self,
        point: Point | None = None,
        *,
        when: Callable[[], object] = lambda: True,
        kill: Callable[[], NoReturn] = die_here,
    ) -> None:
        self.point = point
        self._when = when
        self.calls: Counter[str] = Counter()
        self.halves: set[str] = set()
        """Sites that can die within a call."""
        self.dead = False
        self._kill = kill

    def meet(
        self, site: str, act: Callable[[], Any], half: Callable[[], object] | None = None
    ) -> Any:
        """Perform an act, unless this is where it ends."""
        if self.dead:
            raise Died  # cleaning up on the way out: the dead do not
        self.calls[site] += 1
        if half is not None:
            self.halves.add(site)
        self._perhaps_die(site, BEFORE)
        if half is not None and self._is_now(site, WITHIN):
            half()
            self._die()
        result = act()
        try:
            self._perhaps_die(site, AFTER)
        except Died:
            if hasattr(result, "close"):
                result.close()
            raise
        return result

    def points(self) -> list[Point]:
        """Return every point that was passed."""
        return [
            Point(site, moment, number)
            for site, calls in sorted(self.calls.items())
            for moment in (BEFORE, WITHIN, AFTER)
            if moment != WITHIN or site in self.halves
            for number in range(1, calls + 1)
        ]

    def _perhaps_die(self, site: str, moment: str) -> None:
        if self._is_now(site, moment):
            self._die()

    def _die(self) -> NoReturn:
        self.dead = True
        self._kill()

    def _is_now(self, site: str, moment: str) -> bool:
        point = self.point
        if point is None or (site, moment) != (point.site, point.moment):
            return False
        return point.number in {0, self.calls[site]} and bool(self._when())


@dataclass(frozen=True, slots=True)
class Act:
    """An outside call: how it is done by half, and when it does nothing at all."""

    half: Callable[..., object] | None = None
    idle: Callable[..., bool] | None = None


class Mortal:
    """Wraps an object; some of its methods are calls at which the process may die."""

    def __init__(self, target: Any, fate: Fate, label: str, acts: Mapping[str, Act]) -> None:
        self._target = target
        self._fate = fate
        self._label = label
        self._acts = acts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        act = self._acts.get(name)
        return value if act is None else partial(self._call, name, act, value)

    def _call(
        self, name: str, act: Act, method: Callable[..., Any], *args: Any, **named: Any
    ) -> Any:
        if act.idle is not None and act.idle(self._target, *args, **named):
            return method(*args, **named)
        half = act.half and partial(act.half, self._target, *args, **named)
        return self._fate.meet(f"{self._label}.{name}", partial(method, *args, **named), half)


class MortalStore(Mortal):
    """A store in whose transactions the process may die: at begin, each write, and commit."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        inner = self._target.transaction()
        now = self._fate.meet(f"{self._label}.begin", inner.__enter__)
        try:
            yield now
        except BaseException as error:
            inner.__exit__(type(error), error, error.__traceback__)
            raise
        self._fate.meet(f"{self._label}.commit", partial(inner.__exit__, None, None, None))
