"""What happened: events of the store, read backwards, of one task, or as they come."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dispatcher.events import Ledger, StoreEvent, in_order, is_doubled, ledger_of, place
from dispatcher.store.api import ReaderStore
from dispatcher.times import Instant, StoreTime

#: Events that are read in one snapshot: about 5 ms.
BATCH: Final = 500

#: Seconds for which a follower waits for a missing id: longer than any transaction of the store
#: lasts (`server.ANSWER` and the patience of who waits longest).
LATE: Final = 60.0

#: Milliseconds by which an event may be older than one before it: transactions commit in another
#: order than they begin.
DISORDER: Final = round(LATE * 1000)

#: Above every id.
_NO_ID: Final = 2**63 - 1


def of_task(store: ReaderStore, task_id: int) -> list[StoreEvent]:
    """Return what happened to a task, the oldest first."""
    with store.snapshot():
        return store.task_events(task_id)


def backwards(store: ReaderStore, *, since: StoreTime | None = None) -> Iterator[StoreEvent]:
    """Yield all events, the newest first, until those before a time."""
    ledgers = [_backwards(store, ledger, since) for ledger in Ledger]
    for event in heapq.merge(*ledgers, key=place, reverse=True):
        if since is None or event.at >= since:
            yield event


def _backwards(store: ReaderStore, ledger: Ledger, since: StoreTime | None) -> Iterator[StoreEvent]:
    before = _NO_ID
    while True:
        with store.snapshot():
            found = store.last_events(ledger, before=before, limit=BATCH)
        yield from (one for one in found if not is_doubled(one))
        is_older = since is not None and found and found[-1].at < since - DISORDER
        if len(found) < BATCH or is_older:
            return
        before = found[-1].id


class Follower:
    """Reads events as they are committed, each once.

    On a server an event gets its id before its commit, and a later one may be committed first. So
    ids that are missing are looked for again, for `LATE` seconds.
    """

    def __init__(self, store: ReaderStore, *, at: Instant) -> None:
        """Begin after what is committed now; what is on its way is read later."""
        self._store = store
        self._places = {ledger: _Cursor() for ledger in Ledger}
        with store.snapshot():
            for ledger, one in self._places.items():
                ids = [event.id for event in store.last_events(ledger, before=_NO_ID, limit=BATCH)]
                one.begin(sorted(ids), at)

    def has_read(self, event: StoreEvent) -> bool:
        """Return whether an event was there at the beginning: `read` never returns it."""
        return self._places[ledger_of(event)].has_read(event.id)

    def read(self, at: Instant) -> list[StoreEvent]:
        """Return what was committed since, the oldest first: at most `BATCH` and late ones."""
        found: list[StoreEvent] = []
        with self._store.snapshot():
            for ledger, one in self._places.items():
                gaps = one.gaps(at)
                some = self._store.new_events(ledger, after=one.last, gaps=gaps, limit=BATCH)
                one.found([event.id for event in some], at)
                found += (event for event in some if not is_doubled(event))
        return in_order(found)


class _Cursor:
    """How far a ledger is read, and which ids before that are missing."""

    def __init__(self) -> None:
        self.last = 0
        self._missing: list[tuple[range, Instant]] = []
        """Ranges of ids, and when each was first missed."""

    def begin(self, ids: Sequence[int], at: Instant) -> None:
        self.last = ids[0] - 1 if ids else 0
        self.found(ids, at)

    def has_read(self, number: int) -> bool:
        missing = (ids for ids, _ in self._missing)
        return number <= self.last and not any(number in ids for ids in missing)

    def gaps(self, at: Instant) -> list[range]:
        """Return the ranges of ids that may still come."""
        self._missing = [(ids, since) for ids, since in self._missing if at - since < LATE]
        return [ids for ids, _ in self._missing]

    def found(self, ids: Iterable[int], at: Instant) -> None:
        """Count ids, in ascending order, as read."""
        for number in ids:
            if number > self.last:
                if number > self.last + 1:
                    self._missing.append((range(self.last + 1, number), at))
                self.last = number
            else:
                self._missing = [
                    (part, since) for one, since in self._missing for part in _without(one, number)
                ]


def _without(ids: range, number: int) -> list[range]:
    if number not in ids:
        return [ids]
    parts = [range(ids.start, number), range(number + 1, ids.stop)]
    return [one for one in parts if one]
