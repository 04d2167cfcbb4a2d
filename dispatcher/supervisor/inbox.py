"""The executor's events that are not recorded yet, and how many of them a transaction takes."""

from collections.abc import Sequence
from typing import Final

from dispatcher.executor_api import Event

#: Events recorded in one transaction: most of them take exchanges of their own with a server.
EVENT_BATCH: Final = 500


class Inbox:
    """Takes fewer events after a failure, which may have been for lack of time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._batch = EVENT_BATCH
        self._waiting = 0
        """How many of the first events wait for rows that others have locked."""

    def __bool__(self) -> bool:
        return bool(self.events)

    @property
    def is_short(self) -> bool:
        """Whether the next transaction takes all of it."""
        return len(self.events) <= self._waiting + self._batch

    def next(self) -> list[Event]:
        """Return the events for the next transaction, in their order."""
        return self.events[: self._waiting + self._batch]

    def recorded(self, kept: Sequence[Event]) -> bool:
        """Remove what `next` returned but for the `kept` events; return whether more wait."""
        later = self.events[self._waiting + self._batch :]
        self.events[:] = [*kept, *later]
        self._waiting = len(kept)
        self._batch = min(EVENT_BATCH, self._batch + 1)
        return bool(later)

    def failed(self) -> None:
        """Let the next transaction take half as many."""
        if tried := min(self._batch, len(self.events) - self._waiting):
            self._batch = max(1, tried // 2)

    def clear(self) -> None:
        """Remove all: what happened is compared anew."""
        self.events.clear()
        self._waiting = 0
