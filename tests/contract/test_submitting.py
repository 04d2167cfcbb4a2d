from typing import Any

import pytest

from dispatcher.errors import StoreRefused
from dispatcher.model import Liveness, Submitted, Task, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.clock import STEP
from dispatcher.wire import KillMode
from tests.contract.helpers import NOW, TTL, OneByOne, later, new_task


def test_a_task_is_ready_and_carries_every_field_of_the_request(store: OneByOne) -> None:
    given: dict[str, Any] = {
        "command": ("grep", "-r", "häß\tlich\n"),
        "max_attempts": 7,
        "queue": "mail",
        "priority": -3,
        "cwd": "/srv",
        "env": {"A": "1", "B": ""},
        "payload": '{"n": 1}',
        "key": "once",
        "labels": {"team": "x", "a.b": "y"},
        "liveness": Liveness.WORKER,
        "run_timeout_ms": 1,
        "stall_timeout_ms": 2,
        "start_timeout_ms": 3,
        "queue_timeout_ms": 4,
        "total_timeout_ms": 5,
        "kill_grace_ms": 0,
        "kill_signal": 10,
        "kill_mode": KillMode.LEADER,
        "backoff_min_ms": 0,
        "backoff_max_ms": 1,
        "cooldown_ms": 0,
        "max_deferrals": 0,
        "max_orphans": 0,
    }

    task_id = store.new(**given)

    expected = Task(
        **given,
        id=task_id,
        state=TaskState.READY,
        reason="submitted",
        lease_ttl_ms=TTL,
        attempts_used=0,
        deferrals=0,
        orphans=0,
        fence=0,
        ending=None,
        created_at=NOW,
        run_at=NOW,
        finished_at=None,
        fails_at=later(4),
    )
    assert expected == store.task(task_id)


def test_a_task_with_a_delay_is_scheduled(store: OneByOne) -> None:
    task = store.task(store.new(delay_ms=5_000))

    assert (TaskState.SCHEDULED, later(5_000), NOW) == (task.state, task.run_at, task.created_at)
    assert task.reason


def test_a_second_submit_with_the_key_writes_nothing_and_returns_the_first_id(
    store: OneByOne,
) -> None:
    first = store.submit([new_task(key="k", command=("a",))], now=NOW)[0]
    second = store.submit([new_task(key="k", command=("a",))], now=later(1))[0]

    assert Submitted(first.task_id, created=True) == first
    assert Submitted(first.task_id, created=False) == second
    assert store.task(first.task_id).command == ("a",)
    assert len(store.states()) == 1


def test_a_key_holds_also_when_its_task_has_finished(store: OneByOne) -> None:
    task_id = store.finished(key="k", queue="q")

    again = store.submit([new_task(key="k", queue="q")], now=NOW)[0]

    assert Submitted(task_id, created=False) == again


def test_a_key_is_free_again_when_its_task_was_pruned(store: OneByOne) -> None:
    first = store.finished(key="k", queue="q")
    store.prune(before=later(1), limit=10)

    again = store.submit([new_task(key="k", queue="q")], now=NOW)[0]

    assert again.created
    assert first < again.task_id


def test_a_key_brings_back_what_differs_from_its_first_task(store: OneByOne) -> None:
    store.submit([new_task(key="k", payload="1")], now=NOW)

    for wanted, differs in (
        ({"payload": "1", "priority": 5}, ()),
        ({"payload": "1", "command": ("false",)}, ("command",)),
        ({"payload": "2"}, ("payload",)),
        ({"command": ("false",)}, ("command", "payload")),
    ):
        again = store.submit([new_task(key="k", **wanted)], now=NOW)[0]
        assert (False, differs) == (again.created, again.differs), wanted


def test_a_key_is_of_its_queue_alone(store: OneByOne) -> None:
    one = store.submit([new_task(key="k", queue="one")], now=NOW)[0]
    two = store.submit([new_task(key="k", queue="two")], now=NOW)[0]

    assert one.created
    assert two.created


def test_tasks_without_a_key_never_meet(store: OneByOne) -> None:
    assert store.new() != store.new()


def test_an_id_is_never_given_twice(store: OneByOne) -> None:
    newest = store.finished()
    store.prune(before=later(1), limit=10)

    assert newest < store.new()


@pytest.mark.parametrize(
    "wanted",
    [
        {"priority": 2**63},
        {"payload": "\udc80"},
        {"command": ("a\udc80",)},
        {"queue": ""},
        {"lease_ttl_ms": 0},
        {"max_attempts": 0},
        {"priority": []},
    ],
    ids=str,
)
def test_a_value_that_no_row_can_hold_is_refused_and_nothing_is_written(
    store: OneByOne, wanted: dict[str, object]
) -> None:
    with pytest.raises(StoreRefused):
        store.new(**wanted)

    assert store.states() == {}


def dated(store: OneByOne, after_ms: int, **wanted: object) -> NewTask:
    """Return a submission that may start so long after `NOW`, by a date of the host's clock."""
    return new_task(start_at=store.calendar().ahead_ms + later(after_ms), **wanted)


@pytest.mark.parametrize("submitted_at", [0, 50_000])
def test_a_date_is_kept_until_the_commit_however_late_that_is(
    store: OneByOne, submitted_at: int
) -> None:
    task = dated(store, 60_000, queue_timeout_ms=5)

    (made,) = store.submit([task], now=later(submitted_at))

    found = store.task(made.task_id)
    assert TaskState.SCHEDULED is found.state
    assert abs(found.run_at - later(60_000)) <= STEP
    assert found.fails_at is None


def test_a_task_whose_date_has_passed_is_ready_unless_its_delay_is_longer(store: OneByOne) -> None:
    tasks = [dated(store, 60_000), dated(store, 60_000, delay_ms=9)]

    made = store.submit(tasks, now=later(70_000))

    found = [store.task(one.task_id) for one in made]
    assert [TaskState.READY, TaskState.SCHEDULED] == [task.state for task in found]
    assert [later(70_000), later(70_009)] == [task.run_at for task in found]
