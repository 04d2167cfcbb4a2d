"""The store's part in schedules: which times are settled, and by whom."""

from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.errors import StoreRefused
from dispatcher.events import EventKind, Ledger
from dispatcher.schedules import ScheduleChange, ScheduleState
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.times import WallTime
from tests.contract.helpers import NOW, SHARED, OneByOne, later, new_task

AT = WallTime(NOW)
DEFINITION = "0 3 * * * UTC"
STATE = ScheduleState(name="nightly", definition=DEFINITION, settled_at=AT)


def taken(store: OneByOne, *, at: int = AT) -> ScheduleState:
    (state,) = store.take_schedules({"nightly": DEFINITION}, at=at).values()
    assert isinstance(state, ScheduleState)
    return state


def test_a_schedule_begins_when_it_is_first_taken(store: OneByOne) -> None:
    assert STATE == taken(store)
    assert STATE == taken(store, at=AT + 9), "it is there already"
    assert [STATE] == store.schedules()


def test_what_became_of_its_times_is_kept(store: OneByOne) -> None:
    taken(store)
    facts = {"settled_at": AT + 5, "fired_at": AT + 4, "task_id": 7}
    fired = ScheduleState(name="nightly", definition="0 4 * * * UTC", **facts)
    store.settle_schedule(fired, now=NOW)
    assert fired == taken(store)

    skipped = ScheduleState(
        name="nightly", definition=DEFINITION, settled_at=WallTime(AT + 9), note="skipped"
    )
    store.settle_schedule(skipped, now=later(9))

    found = taken(store)
    assert (AT + 9, AT + 4, 7) == (found.settled_at, found.fired_at, found.task_id)
    assert ("skipped", later(9), DEFINITION) == (found.note, found.noted_at, found.definition)


def test_several_are_taken_together_and_only_those(store: OneByOne) -> None:
    store.take_schedules({"b": "x", "a": "y"}, at=AT)
    found = store.take_schedules({"a": "y", "c": "z"}, at=AT)

    assert {"a": "y", "c": "z"} == {name: one.definition for name, one in found.items()}
    assert ["a", "b", "c"] == [one.name for one in store.schedules()]


def test_a_transaction_that_fails_settles_nothing(store: OneByOne) -> None:
    before = taken(store)

    def fail() -> None:
        with store.raw.transaction():
            store.raw.take_schedules({"nightly": DEFINITION}, at=AT)
            store.raw.settle_schedule(
                ScheduleState(name="nightly", definition="x", settled_at=WallTime(AT + 9)), now=NOW
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()

    assert [before] == store.schedules()


@SHARED
def test_r92_one_that_another_daemon_settles_is_left_to_it(
    raw: SqlStore, store: OneByOne, url: str, tmp_path: Path
) -> None:
    taken(store)
    wanted = {"nightly": DEFINITION, "other": "x"}

    with closing(open_store(url, state_dir=tmp_path / "other", patience=5)) as other:
        with other.transaction():
            other.take_schedules({"nightly": DEFINITION}, at=AT)
            assert ["other"] == [*store.take_schedules(wanted, at=AT)]
        assert ["nightly", "other"] == [*store.take_schedules(wanted, at=AT)]


def test_an_operator_pauses_it_and_lets_it_go_on_from_now(store: OneByOne) -> None:
    taken(store)
    for word, reason, done in (
        (ScheduleChange.PAUSE, "disk", True),
        (ScheduleChange.PAUSE, "another", False),
    ):
        assert done == store.change_schedule("nightly", word, reason=reason, at=AT, now=NOW)
    assert "disk" == taken(store).paused
    store.settle_schedule(taken(store), now=NOW)
    assert "disk" == taken(store).paused

    for at, settled in ((AT - 5, AT), (AT + 5, AT + 5)):
        store.change_schedule("nightly", ScheduleChange.PAUSE, reason="x", at=at, now=NOW)
        assert store.change_schedule("nightly", ScheduleChange.RESUME, at=at, now=NOW)
        assert (None, settled) == (taken(store).paused, taken(store).settled_at)
    assert not store.change_schedule("nightly", ScheduleChange.RESUME, at=AT, now=NOW)


def test_what_an_operator_does_is_an_event(store: OneByOne) -> None:
    taken(store)
    for word in ScheduleChange:
        assert store.change_schedule("nightly", word, reason="why", at=AT, now=NOW)
    assert not store.change_schedule("nightly", ScheduleChange.FORGET, at=AT, now=NOW)

    events = store.last_events(Ledger.EVENTS, before=2**62, limit=9)
    kinds = [EventKind.SCHEDULE_FORGET, EventKind.SCHEDULE_RESUME, EventKind.SCHEDULE_PAUSE]
    assert kinds == [one.kind for one in events]
    assert {("nightly", "why")} == {(one.subject, one.reason) for one in events}
    assert [] == store.schedules()


def test_a_reason_that_no_database_can_keep_is_refused(store: OneByOne) -> None:
    taken(store)
    with pytest.raises(StoreRefused):
        store.change_schedule("nightly", ScheduleChange.PAUSE, reason="a\0b", at=AT, now=NOW)


def test_the_unfinished_tasks_of_an_origin_are_found_the_last_first(store: OneByOne) -> None:
    mine = {"origin": "schedule:nightly"}
    first, second, held, done = [store.new(**mine) for _ in range(4)]
    store.new(origin="schedule:other")
    store.new()
    store.hold(held, "why", now=NOW)
    store.cancel(done, "why", now=NOW)

    found = store.unfinished_of("schedule:nightly", limit=9)
    assert [(second, "ready"), (first, "ready")] == [(one.id, one.state) for one in found]
    assert [second] == [one.id for one in store.unfinished_of("schedule:nightly", limit=1)]


def test_a_row_that_was_damaged_is_read(store: OneByOne) -> None:
    taken(store)
    with store.raw.transaction():
        store.raw.engine.change("UPDATE schedules SET definition = '', settled_at = 0")

    assert ("", 0) == (taken(store).definition, taken(store).settled_at)
    store.submit([new_task()], now=NOW)
