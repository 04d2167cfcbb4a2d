"""`Client.wait`, in virtual time: each look at the store is followed by what the test does."""

from collections.abc import Callable, Iterator

import pytest

from dispatcher.client import Client
from dispatcher.model import TaskState
from dispatcher.operations import waiting
from dispatcher.store.readers import SqlReader
from dispatcher.times import Instant


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


def submitted(client: Client, many: int) -> list[int]:
    return [client.submit(command=["true"]).task_id for _ in range(many)]


def states(done: dict[int, object]) -> dict[int, object]:
    return {one: getattr(task, "state", None) for one, task in done.items()}


def nothing() -> None:
    """Let time pass."""


def test_a_wait_ends_when_all_are_finished_held_or_deleted(client: Client, days: Days) -> None:
    first, second, third = submitted(client, 3)
    days.happen = iter(
        [lambda: client.cancel(first), lambda: client.hold(second), lambda: client.cancel(third)]
    )
    seen: list[int] = []

    done = client.wait([third, first, second, first], report=seen.append)

    assert {first: "cancelled", second: "held", third: "cancelled"} == states({**done})
    assert seen == sorted(seen)
    assert 3 == seen[-1]
    assert {waiting.POLL} == {*days.waits}


def test_a_deleted_task_is_done(client: Client, days: Days) -> None:
    first, second = submitted(client, 2)
    client.cancel(second)
    client.prune(older_than_ms=0)
    days.happen = iter([lambda: client.cancel(first)])

    done = client.wait([first, second, 99_999])

    assert {first: "cancelled", second: None, 99_999: None} == states({**done})


def test_a_wait_for_any_ends_with_the_first(client: Client, days: Days) -> None:
    first, second = submitted(client, 2)
    days.happen = iter([nothing, lambda: client.cancel(second)])

    assert {second: "cancelled"} == states({**client.wait([first, second], any_one=True)})
    assert {second: "cancelled"} == states({**client.wait([first, second], any_one=True)})
    assert 2 == len(days.waits)


def test_a_wait_for_any_of_very_many_looks_at_each_before_it_sleeps(
    client: Client, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_BATCH", 2)
    ids = submitted(client, 5)
    client.cancel(ids[-1])

    assert {ids[-1]: "cancelled"} == states({**client.wait(ids, any_one=True)})
    assert [] == days.waits


@pytest.mark.parametrize("again", [Client.release, Client.retry])
def test_a_task_that_is_no_longer_done_is_waited_for_again(
    client: Client, days: Days, again: Callable[[Client, int], object]
) -> None:
    first, second, third = submitted(client, 3)
    client.hold(first)
    client.cancel(third)
    days.happen = iter(
        [
            lambda: again(client, first),
            lambda: client.cancel(second),
            nothing,
            lambda: client.cancel(first),
        ]
    )
    seen: list[int] = []

    done = client.wait([first, second, third], report=seen.append)

    assert dict.fromkeys((first, second, third), "cancelled") == states({**done})
    assert (2, 3) == (seen[0], seen[-1])
    assert 4 == len(days.waits)


def test_after_the_time_out_a_released_task_is_not_done(client: Client, days: Days) -> None:
    first, second = submitted(client, 2)
    client.hold(first)
    days.happen = iter([lambda: client.release(first)])

    assert {} == client.wait([first, second], timeout_ms=100)


def test_each_of_very_many_tasks_is_watched_and_keeps_its_end_when_it_is_deleted(
    client: Client, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_BATCH", 2)
    *others, last = submitted(client, 5)

    def succeed() -> None:
        assert client.claim(task_id=last) is not None
        client.complete(last)
        client.cancel(others[0])

    days.happen = iter(
        [
            succeed,
            lambda: client.prune(older_than_ms=0),
            lambda: [client.cancel(one) for one in others[1:]],
        ]
    )
    awaited = waiting.AwaitedTasks(client.store, [*others, last])

    awaited.wait()

    assert {last: "succeeded", **dict.fromkeys(others, "cancelled")} == awaited.states


def test_a_wait_reads_states_of_the_wanted_tasks_alone(
    client: Client, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = submitted(client, 30)
    for one in ids:
        client.hold(one)
    wanted = [ids[-1], ids[0], ids[2]]
    monkeypatch.delattr(SqlReader, "task")  # it reads the payload
    awaited = waiting.AwaitedTasks(client.store, wanted)

    awaited.wait()

    assert dict.fromkeys(wanted, TaskState.HELD) == awaited.states
    assert waiting.are_done(client.store, ids)
    assert 99 == waiting.missing(client.store, [*wanted, 99])


def test_looks_that_take_long_are_further_apart(client: Client, days: Days) -> None:
    ids = submitted(client, 2)
    days.happen = iter([lambda: [client.cancel(one) for one in ids]])

    def take_a_second(_: int) -> None:
        days.at += 1

    client.wait(ids, report=take_a_second)

    assert [9] == days.waits


def test_a_look_in_which_the_process_was_stopped_delays_the_next_one_by_seconds(
    client: Client, days: Days
) -> None:
    ids = submitted(client, 2)
    days.happen = iter([lambda: [client.cancel(one) for one in ids]])

    def stop_for_long(_: int) -> None:
        days.at += 100

    client.wait(ids, report=stop_for_long)

    assert [10] == days.waits


def test_the_last_id_that_there_can_be_is_missing_like_any_other(client: Client) -> None:
    (first,) = submitted(client, 1)

    assert 2**63 - 2 == waiting.missing(client.store, [first, 2**63 - 2])


def test_a_time_out_leaves_out_those_that_go_on(client: Client, days: Days) -> None:
    first, second = submitted(client, 2)
    days.happen = iter([lambda: client.cancel(second), nothing, nothing])

    done = client.wait([first, second], timeout_ms=1_200)

    assert {second: "cancelled"} == states({**done})
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


def test_a_held_task_is_done_as_it_waits_for_a_person(client: Client) -> None:
    (task_id,) = submitted(client, 1)
    client.hold(task_id)

    (task,) = client.wait([task_id]).values()

    assert task is not None
    assert TaskState.HELD is task.state
