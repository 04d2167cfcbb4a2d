"""A part of a bulk submit that somebody changed by hand holds up nothing but itself."""

import json

import pytest

from dispatcher.new_task import NewTask
from dispatcher.store.submits import CONTINUE_AFTER, GONE_AFTER
from tests.contract.helpers import NOW, OneByOne, later, new_task
from tests.contract.test_bulk_submits import go_on, left, staged


def written(**fields: object) -> str:
    """Return a task of a part, as it is written, but for some fields."""
    return json.dumps({"command": ["true"], "max_attempts": 1, "lease_ttl_ms": 1_000} | fields)


ONE = written()

#: What somebody wrote, in SQL, and the error about it.
DAMAGE = [
    ("""'[{"command": 5}]'""", "item 1: command: expected a list"),
    ("""'[{"command": ["true"]}]'""", "item 1: max_attempts: is missing"),
    ("'[ '", "not JSON: it ends too early"),
    ("''", "not JSON: it ends too early"),
    ("'{}'", "expected a list, got an object"),
    ("x'ff'", ""),  # PostgreSQL stores it as the text of its bits
    (f"'[{ONE}, {written(max_attempts=0)}]'", "item 2: max_attempts: must be from 1"),
    (f"'[{written(lease_ttl_ms=0)}]'", "item 1: lease_ttl_ms: must be from 1"),
    (f"'[{written(run_timeout_ms=0)}]'", "item 1: run_timeout_ms: must be from 1"),
    (f"'[{written(delay_ms=2**63 - 1)}]'", "item 1: delay_ms: must be from 0"),
    (f"'[{written(umask=512)}]'", "item 1: umask: must be from 0 to 511"),
    (f"'[{written(max_orphans=-1)}]'", "item 1: max_orphans: must be from 0"),
    (f"'[{written(cooldown_ms=-1)}]'", "item 1: cooldown_ms: must be from 0"),
    (
        f"'[{written(backoff_min_ms=2, backoff_max_ms=1)}]'",
        "item 1: backoff_min_ms: is more than backoff_max_ms",
    ),
    (f"'[{written(environment=0)}]'", "item 1: environment: the part has no such environment"),
    (f"'[{written(queue='')}]'", "item 1: queue: is empty"),
    (f"'[{written(liveness='no')}]'", "item 1: liveness: "),
]


def damage(store: OneByOne, part: int, text: str) -> None:
    with store.raw.transaction():
        store.sql(f"UPDATE bulk_parts SET tasks = {text} WHERE part = {part}")


@pytest.mark.parametrize(("text", "message"), DAMAGE)
def test_a_damaged_part_is_named_with_what_is_wrong_and_the_rest_becomes_tasks(
    store: OneByOne, text: str, message: str
) -> None:
    uid = staged(store, [new_task()], [new_task()], [new_task()])
    store.accept(uid, now=NOW)
    damage(store, 1, text)

    assert 3 == go_on(
        store, CONTINUE_AFTER + 1
    )  # the last one sees that nothing else is to be done
    assert 2 == len(store.states())
    assert 1 == store.coming()
    (found,) = store.damaged_parts()
    assert found.startswith("part 1 of bulk submit bulk is damaged by hand: "), found
    assert message in found
    assert not store.remove_parts(uid)
    assert (1, 3) == left(store)


def test_a_damaged_part_is_not_read_again_at_once_and_hides_no_other(
    store: OneByOne,
) -> None:
    uid = staged(store, [new_task()])
    store.accept(uid, now=NOW)
    damage(store, 0, "'x'")
    store.stage("other", 0, [new_task()], now=later(1))
    store.accept("other", now=later(1))

    assert 2 == go_on(store, CONTINUE_AFTER + 2)
    assert 0 == go_on(store, CONTINUE_AFTER + 3)
    assert 1 == len(store.states())


def test_a_damaged_part_stays_until_it_is_mended_and_then_becomes_tasks(store: OneByOne) -> None:
    uid = staged(store, [new_task()], [new_task()])
    store.accept(uid, now=NOW)
    damage(store, 0, "'x'")
    go_on(store, 3 * GONE_AFTER)
    assert 1 == store.coming()
    assert not store.has_unfinished() or 1 == len(store.states())

    damage(store, 0, f"'[{ONE}]'")
    assert [] == store.damaged_parts()
    assert store.has_unfinished()
    go_on(store, 6 * GONE_AFTER)

    assert 2 == len(store.states())
    assert 0 == store.coming()


def test_nothing_that_is_only_damaged_is_unfinished(store: OneByOne) -> None:
    uid = staged(store, [new_task()])
    store.accept(uid, now=NOW)
    assert store.has_unfinished()

    damage(store, 0, "'x'")

    assert not store.has_unfinished()


def test_a_staged_part_that_is_not_accepted_is_not_reported_as_damaged(store: OneByOne) -> None:
    staged(store, [new_task()])
    damage(store, 0, "'x'")

    assert [] == store.damaged_parts()


def test_at_most_ten_damaged_parts_are_named(store: OneByOne) -> None:
    uid = staged(store, *[[new_task()]] * 12)
    store.accept(uid, now=NOW)
    for part in range(12):
        damage(store, part, "'x'")

    assert 10 == len(store.damaged_parts())


@pytest.mark.parametrize("text", ["'x'", "'[5]'", "x'ff'"])
def test_ids_that_were_damaged_are_not_known(store: OneByOne, text: str) -> None:
    uid = staged(store, [new_task()])
    store.accept(uid, now=NOW)
    store.admit(uid, now=NOW)
    with store.raw.transaction():
        store.sql(f"UPDATE bulk_parts SET submitted = {text}")

    assert store.submitted(uid, 0) is None


def test_a_submit_is_known_as_accepted_until_it_is_removed(store: OneByOne) -> None:
    assert store.accepted("bulk") is None
    uid = staged(store, [new_task()])
    assert store.accepted(uid) is False
    store.accept(uid, now=NOW)
    assert store.accepted(uid) is True
    store.admit(uid, now=NOW)
    assert store.accepted(uid) is True
    store.remove_parts(uid)
    assert store.accepted(uid) is None


def test_every_task_that_is_accepted_is_one_that_the_schema_takes(store: OneByOne) -> None:
    """The smallest valid submit is not reported as damaged."""
    least = NewTask(
        command=("x",),
        max_attempts=1,
        lease_ttl_ms=1,
        run_timeout_ms=1,
        stall_timeout_ms=1,
        start_timeout_ms=1,
        queue_timeout_ms=1,
        total_timeout_ms=1,
        kill_grace_ms=0,
        kill_signal=1,
        backoff_min_ms=0,
        backoff_max_ms=0,
        cooldown_ms=0,
        max_deferrals=0,
        max_orphans=0,
        umask=0,
    )
    uid = staged(store, [least])
    store.accept(uid, now=NOW)

    assert store.admit(uid, now=NOW)
