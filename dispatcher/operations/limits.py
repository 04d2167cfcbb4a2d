"""Operators' decisions about named limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dispatcher import commits
from dispatcher.errors import DispatcherError, did_you_mean
from dispatcher.named_limits import queue_of
from dispatcher.operations.nodes import NodeOperator
from dispatcher.times import StoreTime, WallTime

if TYPE_CHECKING:
    from dispatcher.limit_views import LimitView


def gone_text(name: str) -> str:
    """Return what becomes of a limit that tasks take and no file configures."""
    return (
        f"limit {name} is not configured: it limits nothing, but can still be closed; add"
        f" [limits.{name}]"
    )


class LimitOperator(NodeOperator):
    """The part of a `Client` for named limits.

    `DispatcherError` is raised for a name that is neither configured nor known to the store, for
    the limit of a queue that has none here, and for a time that is over.
    """

    def limits(self) -> Mapping[str, LimitView]:
        """Return the named limits, and those of queues on all nodes, by name."""
        return self.standing().limits

    def unconfigured_limits(self) -> list[str]:
        """Return the limits that unfinished tasks take, and that are not configured here."""
        with self.store.snapshot():
            return sorted(self.store.limits_taken() - self.config.limits.keys())

    def close_limit(
        self,
        name: str,
        reason: str = "closed by an operator",
        *,
        until: WallTime | None = None,
        for_ms: int | None = None,
    ) -> None:
        """Let nothing that takes a limit start: until a date, for a time, or until it is opened.

        What runs goes on.
        """
        self._check_limit(name)

        def close(now: StoreTime) -> bool:
            then = None if for_ms is None else StoreTime(now + for_ms)
            if until is not None:
                then = StoreTime(until - self.store.calendar().ahead_ms)
            if then is not None and then <= now:
                raise DispatcherError("until: is over already; give a later time, or none")
            self.store.close_limit(name, reason, until=then, now=now)
            return True

        commits.change(self.store, commits.first_answer(close), remedy="close it again")

    def open_limit(self, name: str) -> bool:
        """Let tasks that take a limit start again; False: it was open."""
        self._check_limit(name)
        again = commits.first_answer(lambda now: self.store.open_limit(name, now=now))
        return commits.change(self.store, again, remedy="open it again")

    def _check_limit(self, name: str) -> None:
        if name in self.config.limits:
            return
        if (queue := queue_of(name)) is not None:
            settings = self.config.queues.get(queue)
            if settings is None or settings.rule is None:
                raise DispatcherError(
                    f"queue {queue!r} has no limit of its own; dispatcher pause {queue}, or add"
                    f" [queues.{queue}] breaker"
                )
            return
        with self.store.snapshot():
            known = {one.name for one in self.store.closings()} | self.store.limits_taken()
        if name not in known:
            known |= self.config.limits.keys()
            near = did_you_mean(name, known) or f"; known are: {', '.join(sorted(known)) or 'none'}"
            raise DispatcherError(f"there is no limit {name!r}{near}; or add [limits.{name}]")
