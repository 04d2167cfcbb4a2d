"""How many events a tick records in one transaction, so that one that is too long ends."""

from typing import Any

import pytest

from dispatcher import wire
from dispatcher.executor_api import Event
from dispatcher.supervisor.inbox import EVENT_BATCH, Inbox
from dispatcher.wire import RunUid


def events(number: int) -> list[Event]:
    return [wire.Notice(uid=RunUid(str(one)), serial=1, beat=True) for one in range(number)]


def test_a_transaction_that_fails_is_followed_by_smaller_ones_until_one_succeeds() -> None:
    inbox, given, taken = Inbox(), events(100), []
    inbox.events.extend(given)

    sizes = [len(inbox.next())]
    for _ in range(3):
        inbox.failed()
        sizes.append(len(inbox.next()))
    while inbox:
        assert inbox.is_short == (inbox.next() == inbox.events)
        taken += inbox.next()
        inbox.recorded([])

    assert [100, 50, 25, 12] == sizes
    assert given == taken


def test_a_failure_of_one_event_leaves_one() -> None:
    inbox = Inbox()
    inbox.events.extend(events(2))
    for _ in range(9):
        inbox.failed()

    assert 1 == len(inbox.next())


def test_a_failure_without_events_changes_nothing() -> None:
    inbox = Inbox()
    inbox.failed()
    inbox.events.extend(events(EVENT_BATCH))

    assert EVENT_BATCH == len(inbox.next())


def test_events_that_wait_for_rows_keep_none_behind_them() -> None:
    inbox, given = Inbox(), events(EVENT_BATCH + 3)
    inbox.events.extend(given)

    assert not inbox.is_short
    assert inbox.recorded(given[:EVENT_BATCH])
    assert inbox.is_short
    assert given == inbox.next()


def test_events_that_may_wait_no_more_are_also_tried_in_smaller_parts() -> None:
    inbox, given = Inbox(), events(100)
    inbox.events.extend(given)
    inbox.recorded(given)
    late = events(102)[100:]
    inbox.events.extend(late)

    sizes = []
    for _ in range(4):
        sizes.append(len(inbox.next()))
        inbox.failed()
    taken = []
    while inbox:
        taken += inbox.next()
        inbox.recorded([])

    assert [102, 51, 25, 12] == sizes
    assert given + late == taken


def noticed(name: str, serial: int, **facts: Any) -> wire.Notice:
    return wire.Notice(uid=RunUid(name), serial=serial, **facts)


@pytest.mark.parametrize("locked", [True, False])
def test_of_very_many_notices_of_a_run_that_wait_one_is_kept(*, locked: bool) -> None:
    """Its row is locked, or the store does not answer."""
    inbox = Inbox()
    begun = wire.Changed(uid=RunUid("a"), state=wire.RunState.LEADER_EXITED)
    inbox.events.extend(
        [
            noticed("a", 1, beat=True, note="first"),
            noticed("b", 1, failed=True),
            begun,
            *(noticed("a", serial, until=float(serial)) for serial in range(2, 1_000)),
        ]
    )

    if locked:
        while inbox.recorded(inbox.next()):
            pass
    else:
        inbox.failed()

    one = noticed("a", 999, beat=True, note="first", until=999.0)
    assert [one, noticed("b", 1, failed=True), begun] == inbox.events
