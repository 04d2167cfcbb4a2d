"""`Client.wait`, in virtual time: each look at the store is followed by what the test does."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispatcher.client import Client
from dispatcher.model import TaskState
from dispatcher.operations import waiting
from dispatcher.times import Instant
from tests.command import Command


class Days:
    """A clock that moves only when somebody waits, and what happens then."""

    def __init__(self) -> None:
        self.at = 100.0
        self.waits: list[float] = []
        self.happen: Iterator[Callable[[], object]] = iter(())

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.at += seconds
        next(self.happen, lambda: pytest.fail("it waits for ever"))()


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Days:
    days = Days()
    monkeypatch.setattr(waiting, "sleep", days.sleep)
    monkeypatch.setattr(waiting, "instant", lambda: Instant(days.at))
    return days


@pytest.fixture
def client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    with Command(tmp_path, capsys, monkeypatch).client() as client:
        yield client


def submitted(client: Client, many: int) -> list[int]:
    return [client.submit(command=["true"]).task_id for _ in range(many)]


def states(rested: dict[int, object]) -> dict[int, object]:
    return {one: getattr(task, "state", None) for one, task in rested.items()}


def nothing() -> None:
    """Let time pass."""


def test_a_wait_ends_when_all_are_finished_held_or_deleted(client: Client, days: Days) -> None:
    first, second, third = submitted(client, 3)
    days.happen = iter(
        [lambda: client.cancel(first), lambda: client.hold(second), lambda: client.cancel(third)]
    )
    seen: list[int] = []

    rested = client.wait([third, first, second, first], report=seen.append)

    assert {first: "cancelled", second: "held", third: "cancelled"} == states({**rested})
    assert seen == sorted(seen)
    assert 3 == seen[-1]
    assert {waiting.POLL} == {*days.waits}


def test_a_deleted_task_rests(client: Client, days: Days) -> None:
    first, second = submitted(client, 2)
    client.cancel(second)
    client.prune(older_than_ms=0)
    days.happen = iter([lambda: client.cancel(first)])

    rested = client.wait([first, second, 99_999])

    assert {first: "cancelled", second: None, 99_999: None} == states({**rested})


def test_a_wait_for_any_ends_with_the_first(client: Client, days: Days) -> None:
    first, second = submitted(client, 2)
    days.happen = iter([nothing, lambda: client.cancel(second)])

    assert {second: "cancelled"} == states({**client.wait([first, second], any_one=True)})
    assert {second: "cancelled"} == states({**client.wait([first, second], any_one=True)})
    assert 2 == len(days.waits)


def test_a_wait_for_any_of_very_many_looks_at_each(
    client: Client, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_BATCH", 2)
    ids = submitted(client, 5)
    client.cancel(ids[-1])
    days.happen = iter([nothing, nothing])

    assert {ids[-1]: "cancelled"} == states({**client.wait(ids, any_one=True)})


def test_a_time_out_leaves_out_those_that_go_on(client: Client, days: Days) -> None:
    first, second = submitted(client, 2)
    days.happen = iter([lambda: client.cancel(second), nothing, nothing])

    rested = client.wait([first, second], timeout_ms=1_200)

    assert {second: "cancelled"} == states({**rested})
    assert 1.2 == pytest.approx(sum(days.waits))


def test_all_tasks_are_read_once_more_when_the_time_is_over(
    client: Client, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_BATCH", 2)
    ids = submitted(client, 5)
    client.cancel(ids[-1])

    assert {ids[-1]: "cancelled"} == states({**client.wait(ids, timeout_ms=0)})
    assert [] == days.waits


def test_a_wait_for_nothing_ends_at_once(client: Client, days: Days) -> None:
    assert {} == client.wait([])
    assert [] == days.waits


def test_a_held_task_waits_for_a_person_and_so_it_rests(client: Client) -> None:
    (task_id,) = submitted(client, 1)
    client.hold(task_id)

    (task,) = client.wait([task_id]).values()

    assert task is not None
    assert TaskState.HELD is task.state
