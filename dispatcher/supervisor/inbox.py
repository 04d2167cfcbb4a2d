"""The executor's events that are not recorded yet, and how many of them a transaction takes."""

from collections.abc import Sequence
from typing import Final

from dispatcher import wire
from dispatcher.executor_api import Event
from dispatcher.outbox import merged
from dispatcher.wire import RunUid

#: Events recorded in one transaction: most of them take exchanges of their own with a server.
EVENT_BATCH: Final = 500


class Inbox:
    """Takes fewer events after a failure, which may have been for lack of time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.most = EVENT_BATCH
        """How many a transaction takes at most: of these events, and of workers' requests."""
        self._waiting = 0
        """How many of the first events wait for rows that others have locked."""

    def __bool__(self) -> bool:
        return bool(self.events)

    @property
    def is_short(self) -> bool:
        """Whether the next transaction takes all of it."""
        return len(self.events) <= self._waiting + self.most

    def next(self) -> list[Event]:
        """Return the events for the next transaction, in their order."""
        return self.events[: self._waiting + self.most]

    def recorded(self, kept: Sequence[Event]) -> bool:
        """Remove what `next` returned but for the `kept` events; return whether more wait."""
        later = self.events[self._waiting + self.most :]
        waiting = _merged(kept)
        self.events[:] = [*waiting, *later]
        self._waiting = len(waiting)
        self.most = min(EVENT_BATCH, self.most + 1)
        return bool(later)

    def failed(self, requests: int = 0) -> None:
        """Let the next transaction take half as many, also of those that may wait no more.

        `requests`: how many the transaction was to take.
        """
        if tried := max(len(self.next()), min(requests, self.most)):
            self.events[:] = _merged(self.events)
            self.most, self._waiting = max(1, tried // 2), 0

    def clear(self) -> None:
        """Remove all: what happened is compared anew."""
        self.events.clear()
        self._waiting = 0


def _merged(events: Sequence[Event]) -> list[Event]:
    """Return events with one notice of each run, in the place of its first one.

    A worker sends very many while its run's row is locked, or the store does not answer.
    """
    notices: dict[RunUid, wire.Notice] = {}
    for event in events:
        if isinstance(event, wire.Notice):
            notices[event.uid] = merged(notices.get(event.uid), event)
    return [
        notices.pop(event.uid) if isinstance(event, wire.Notice) else event
        for event in events
        if not isinstance(event, wire.Notice) or event.uid in notices
    ]
