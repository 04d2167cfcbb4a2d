"""A bulk submit: nothing of it before it is accepted, all of it afterwards, after any death."""

import json

import pytest

from dispatcher.environment import Environment
from dispatcher.errors import StoreRefused
from dispatcher.model import Liveness, Submitted, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.submits import CONTINUE_AFTER, GONE_AFTER, REMOVED
from tests.contract.helpers import NOW, TTL, OneByOne, later, new_task

#: A task with a value in every field.
FULL = NewTask(
    command=("grep", "häß\tlich\n"),
    max_attempts=7,
    lease_ttl_ms=TTL,
    queue="mail",
    priority=-3,
    delay_ms=1,
    cwd="/srv",
    env={"A": "1", "B": ""},
    payload='{"n": 1}',
    key="once",
    profile="p",
    rules={"3": "held"},
    labels={"a.b": "y"},
    liveness=Liveness.WORKER,
    notify=True,
    run_timeout_ms=1,
    stall_timeout_ms=2,
    start_timeout_ms=3,
    queue_timeout_ms=4,
    total_timeout_ms=5,
    kill_grace_ms=0,
    kill_signal=10,
    backoff_min_ms=0,
    backoff_max_ms=1,
    cooldown_ms=0,
    max_deferrals=0,
    max_orphans=0,
    environment=Environment({"PATH": "/bin", "ß": ""}),
    umask=0o777,
)


def staged(store: OneByOne, *parts: list[NewTask]) -> str:
    """Put parts aside; return the submit's uid."""
    for number, part in enumerate(parts):
        assert store.stage("bulk", number, part, now=NOW)
    return "bulk"


def left(store: OneByOne) -> tuple[int, int]:
    """Return how many bulk submits and parts are kept."""
    with store.raw.snapshot():
        ((submits, parts),) = store.sql(
            "SELECT (SELECT count(*) FROM bulk_submits), (SELECT count(*) FROM bulk_parts)"
        )
    return submits, parts


def test_a_staged_task_is_not_a_task_yet_and_its_key_blocks_nobody(store: OneByOne) -> None:
    uid = staged(store, [new_task(key="k"), new_task(delay_ms=5)])

    assert {} == store.states() == store.counts()
    assert not store.has_unfinished()
    assert not store.admit(uid, now=NOW)
    assert store.submitted(uid, 0) is None
    assert store.submit([new_task(key="k")], now=NOW)[0].created


def test_accepted_parts_become_tasks_in_their_order_as_submit_makes_them(store: OneByOne) -> None:
    uid = staged(store, [FULL, new_task()], [new_task(queue="z")])
    other = store.new(queue="other")

    assert store.coming() == 0
    assert store.accept(uid, now=later(1))
    assert store.has_unfinished()
    steps = [(store.coming(), store.admit(uid, now=later(2))) for _ in range(3)]

    assert [(3, True), (1, True), (0, False)] == steps
    first = [Submitted(other + 1, created=True), Submitted(other + 2, created=True)]
    assert first == store.submitted(uid, 0)
    assert [Submitted(other + 3, created=True)] == store.submitted(uid, 1)
    with store.raw.transaction():
        store.sql("DELETE FROM tasks WHERE key = 'once'")
    again = store.submit([FULL], now=later(2))[0].task_id
    columns = {*store.columns("tasks")} - {"id", "key"}
    twin = staged_again(store)
    assert {name: store.column(name, again) for name in columns} == {
        name: store.column(name, twin) for name in columns
    }
    assert store.task(again).payload == store.task(twin).payload


def staged_again(store: OneByOne) -> int:
    """Bring `FULL` in by a bulk submit of its own, under another key; return its id."""
    fields = {name: getattr(FULL, name) for name in FULL.__slots__}
    store.stage("twin", 0, [NewTask(**{**fields, "key": "other"})], now=NOW)
    store.accept("twin", now=NOW)
    store.admit("twin", now=later(2))
    (made,) = store.submitted("twin", 0)
    return int(made.task_id)


def test_a_key_that_came_meanwhile_is_its_task_as_if_it_had_come_before(store: OneByOne) -> None:
    uid = staged(store, [new_task(key="k"), new_task(key="l"), new_task(key="l")])
    store.accept(uid, now=NOW)
    mine = store.submit([new_task(key="k")], now=NOW)[0].task_id

    store.admit(uid, now=NOW)

    other = max(store.states())
    found = [(one.task_id, one.created) for one in store.submitted(uid, 0)]
    assert [(mine, False), (other, True), (other, False)] == found


def test_each_step_twice_is_as_good_as_once(store: OneByOne) -> None:
    uid = staged(store, [new_task()])

    assert store.stage(uid, 0, [new_task(), new_task()], now=NOW)
    assert store.accept(uid, now=NOW)
    assert store.accept(uid, now=NOW)
    assert store.admit(uid, now=NOW)
    assert not store.admit(uid, now=NOW)
    assert 1 == len(store.states()) == len(store.submitted(uid, 0))


def test_forgetting_removes_staged_tasks_in_bounded_steps_and_no_accepted_task(
    store: OneByOne,
) -> None:
    uid = staged(store, *[[new_task()]] * (REMOVED + 1))

    assert store.remove_parts(uid)
    assert (1, 1) == left(store)
    assert not store.accept(uid, now=NOW)  # half of it
    assert not store.stage(uid, 99, [new_task()], now=NOW)
    assert not store.remove_parts(uid)

    assert (0, 0) == left(store)
    assert {} == store.states()


def test_accepted_parts_are_not_removed_before_all_are_tasks(store: OneByOne) -> None:
    uid = staged(store, [new_task()], [new_task()])
    store.accept(uid, now=NOW)
    store.admit(uid, now=NOW)

    assert not store.remove_parts(uid)
    assert (1, 2) == left(store)
    assert store.admit(uid, now=NOW)
    assert not store.remove_parts(uid)

    assert (0, 0) == left(store)
    assert 2 == len(store.states())


def go_on(store: OneByOne, milliseconds: int) -> int:
    """Go on as long as there is something to do; return how many steps that took."""
    steps = 0
    while store.continue_silent(now=later(milliseconds)):
        steps += 1
    return steps


def test_for_a_client_that_is_silent_others_go_on_and_it_may_come_back(store: OneByOne) -> None:
    uid = staged(store, [new_task()], [new_task()], [new_task()])
    store.accept(uid, now=NOW)
    store.admit(uid, now=NOW)

    assert 0 == go_on(store, CONTINUE_AFTER)
    assert 2 == go_on(store, CONTINUE_AFTER + 1)
    assert 3 == len(store.states())
    assert not store.admit(uid, now=later(CONTINUE_AFTER + 2))
    assert [1, 2, 3] == [store.submitted(uid, part)[0].task_id for part in range(3)]


@pytest.mark.parametrize("accepted", [True, False])
def test_after_an_hour_of_silence_nothing_is_left_but_tasks(
    store: OneByOne, *, accepted: bool
) -> None:
    uid = staged(store, *[[new_task()]] * 3)
    if accepted:
        store.accept(uid, now=NOW)

    assert (3 if accepted else 0) == go_on(store, GONE_AFTER)
    assert (1, 3) == left(store)
    assert 1 == go_on(store, GONE_AFTER + 1)

    assert (0, 0) == left(store)
    assert (3 if accepted else 0) == len(store.states())
    assert not store.stage(uid, 3, [new_task()], now=NOW)
    assert not store.accept(uid, now=NOW)


def test_each_part_is_a_sign_of_life(store: OneByOne) -> None:
    uid = staged(store, [new_task()])
    store.stage(uid, 1, [new_task()], now=later(GONE_AFTER))

    assert 0 == go_on(store, GONE_AFTER + 1)
    assert store.accept(uid, now=later(GONE_AFTER + 1))


def test_a_submit_whose_removal_began_is_removed_without_an_hours_wait(
    store: OneByOne,
) -> None:
    uid = staged(store, *[[new_task()]] * (REMOVED + 1))
    store.remove_parts(uid)

    assert 1 == go_on(store, CONTINUE_AFTER + 1)
    assert (0, 0) == left(store)


def test_a_submit_that_waits_for_its_client_hides_no_other(store: OneByOne) -> None:
    staged(store, [new_task()])
    store.stage("other", 0, [new_task()], now=later(1))
    store.accept("other", now=later(1))

    assert 1 == go_on(store, CONTINUE_AFTER + 2)
    assert 1 == len(store.states())


def test_a_value_that_no_row_can_hold_is_refused_before_it_is_staged(store: OneByOne) -> None:
    with pytest.raises(StoreRefused):
        store.stage("bulk", 0, [new_task(payload="\udc80")], now=NOW)

    assert (0, 0) == left(store)


def test_defaults_of_a_task_are_not_written(store: OneByOne) -> None:
    staged(store, [new_task()])

    with store.raw.snapshot():
        ((text,),) = store.sql("SELECT tasks FROM bulk_parts")
    assert [{"command": ["true"], "max_attempts": 3, "lease_ttl_ms": TTL}] == json.loads(text)


def test_tasks_of_a_bulk_submit_wait_in_their_queues_as_others_do(store: OneByOne) -> None:
    uid = staged(store, [new_task(queue="paused"), new_task(queue="free"), new_task(delay_ms=9)])
    store.pause("paused", "upgrade", now=NOW)
    store.accept(uid, now=NOW)
    store.admit(uid, now=NOW)

    assert ["free"] == store.ready_queues(after="", limit=9)
    assert [TaskState.READY, TaskState.READY, TaskState.SCHEDULED] == [*store.states().values()]
