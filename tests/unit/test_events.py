"""A follower reads each event once, also one whose commit is late."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from dispatcher.events import (
    Actor,
    EventKind,
    Ledger,
    StoreEvent,
    actor_from,
    in_order,
    in_order_of_task,
    is_doubled,
)
from dispatcher.host import owner
from dispatcher.operations.events import BATCH, LATE, Follower, backwards
from dispatcher.store.api import ReaderStore
from dispatcher.times import Instant, StoreTime


def event(
    number: int, *, at: int = 0, kind: EventKind = EventKind.HOLD, **facts: Any
) -> StoreEvent:
    given = {
        **dict.fromkeys(("subject", "queue", "before", "after", "reason")),
        "task_id": 1,
        "fence": 0,
        "who": "user:0:root",
    }
    return StoreEvent(id=number, at=StoreTime(at or number), kind=kind, **{**given, **facts})


class Ledgers:
    """Committed events by ledger, and the ids that were read."""

    def __init__(self) -> None:
        self.rows: dict[Ledger, dict[int, StoreEvent]] = {one: {} for one in Ledger}
        self.read = 0

    def commit(self, *numbers: int, ledger: Ledger = Ledger.EVENTS) -> None:
        self.rows[ledger] |= {one: event(one) for one in numbers}

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        yield

    def last_events(self, ledger: Ledger, *, before: int, limit: int) -> list[StoreEvent]:
        found = sorted((one for one in self.rows[ledger] if one < before), reverse=True)[:limit]
        return self._found(ledger, found)

    def new_events(
        self, ledger: Ledger, *, after: int, gaps: Sequence[range] = (), limit: int
    ) -> list[StoreEvent]:
        ids = sorted(self.rows[ledger])
        late = [one for one in ids if any(one in gap for gap in gaps)]
        return self._found(ledger, late + [one for one in ids if one > after][:limit])

    def _found(self, ledger: Ledger, ids: list[int]) -> list[StoreEvent]:
        self.read += len(ids)
        return [self.rows[ledger][one] for one in ids]


@pytest.fixture
def ledgers() -> Ledgers:
    return Ledgers()


def followed(ledgers: Ledgers) -> Follower:
    return Follower(cast("ReaderStore", ledgers), at=Instant(0))


def ids(follower: Follower, at: float = 0) -> list[int]:
    return [one.id for one in follower.read(Instant(at))]


def test_what_is_there_is_left_out_and_what_comes_is_read_once(ledgers: Ledgers) -> None:
    ledgers.commit(1, 2)
    follower = followed(ledgers)

    assert [] == ids(follower)
    ledgers.commit(3, 4)
    assert [3, 4] == ids(follower)
    assert [] == ids(follower)


def test_late_commits_are_read_wherever_their_ids_are(ledgers: Ledgers) -> None:
    ledgers.commit(1, 5)
    follower = followed(ledgers)

    ledgers.commit(9)
    assert [9] == ids(follower, 1)
    ledgers.commit(3, 7)
    assert [3, 7] == ids(follower, 2)
    ledgers.commit(2, 4, 6, 8, 10)
    assert [2, 4, 6, 8, 10] == ids(follower, 3)
    assert [] == ids(follower, 4)


def test_an_id_that_never_comes_is_given_up(ledgers: Ledgers) -> None:
    ledgers.commit(1, 3)
    follower = followed(ledgers)

    assert [] == ids(follower, LATE)
    ledgers.commit(2)

    assert [] == ids(follower, LATE)


def test_a_poll_reads_nothing_again(ledgers: Ledgers) -> None:
    ledgers.commit(*range(1, BATCH, 2))
    follower = followed(ledgers)
    before = ledgers.read

    for at in range(100):
        assert [] == ids(follower, at / 10)

    assert before == ledgers.read


def test_what_was_printed_from_the_past_never_comes_again(ledgers: Ledgers) -> None:
    ledgers.commit(1, 3)
    follower = followed(ledgers)
    ledgers.commit(2, 4)

    past = [one for one in backwards(cast("ReaderStore", ledgers)) if follower.has_read(one)]

    assert [3, 1] == [one.id for one in past]
    assert [2, 4] == ids(follower)


def test_the_past_is_read_part_by_part_as_far_as_is_needed(ledgers: Ledgers) -> None:
    for number in range(1, 10 * BATCH):
        ledgers.commit(number)
    since = StoreTime(10 * BATCH - 3)

    found = [one.id for one in backwards(cast("ReaderStore", ledgers), since=since)]

    assert [10 * BATCH - 1, 10 * BATCH - 2, 10 * BATCH - 3] == found


def test_events_of_one_time_are_in_their_order() -> None:
    run = {"at": 5, "fence": 2}
    settled = event(4, kind=EventKind.SETTLE, **run)
    claimed = event(9, kind=EventKind.CLAIM, **run)
    due = event(3, at=5, kind=EventKind.DUE, fence=1)

    assert [due, claimed, settled] == in_order([settled, claimed, due])


def test_the_events_of_a_task_follow_each_other_whatever_their_times_are() -> None:
    submitted = event(3, at=9, kind=EventKind.SUBMIT, fence=0)
    released = event(5, at=8, kind=EventKind.PARENTS_DONE, fence=0)
    claimed = event(4, at=5, kind=EventKind.CLAIM, fence=1, who="node:a")
    held = event(7, at=6, kind=EventKind.SETTLE, fence=1)
    answered = event(8, at=4, kind=EventKind.ANSWER, fence=None)
    again = event(6, at=3, kind=EventKind.CLAIM, fence=2, who="node:b")
    all_of_it = [submitted, released, claimed, held, answered, again]

    assert all_of_it == in_order_of_task(reversed(all_of_it))


def test_a_local_claim_is_read_from_its_event_and_not_from_its_run() -> None:
    claim = EventKind.CLAIM
    assert is_doubled(event(1, kind=claim, who="node:local:x"))
    assert not is_doubled(event(1, kind=claim, who="node:x"))
    assert not is_doubled(event(1, kind=claim))


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("worker", Actor(kind="worker")),
        ("node:a", Actor(kind="node", node="a")),
        ("user:7:alice", Actor(kind="user", uid=7, user="alice")),
        ("user:0:root:bob", Actor(kind="user", uid=0, user="root", sudo_user="bob")),
        ("user:x:y", Actor(kind="unknown", user="user:x:y")),
        ("unknown", Actor(kind="unknown", user="unknown")),
    ],
)
def test_who(text: str, who: Actor) -> None:
    assert who == actor_from(text)


@pytest.mark.parametrize(
    ("caller", "ending"), [("bob", ":bob"), ("a:b", ""), ("a b", ""), ("", ""), (None, "")]
)
def test_the_user_of_a_process_with_who_called_sudo(
    monkeypatch: pytest.MonkeyPatch, caller: str | None, ending: str
) -> None:
    monkeypatch.setattr(owner.os, "getuid", lambda: 7)
    monkeypatch.setattr(owner, "name_of", lambda uid: f"user{uid}")
    monkeypatch.delenv("SUDO_USER", raising=False)
    if caller is not None:
        monkeypatch.setenv("SUDO_USER", caller)

    assert f"user:7:user7{ending}" == owner.acting_user()


def test_root_who_became_another_user_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(owner.os, "getuid", lambda: 7)
    monkeypatch.setattr(owner, "became", object)

    assert "user:0:root" == owner.acting_user()
