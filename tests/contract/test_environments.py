"""Environments of submitters: equal ones are one row, which lives as long as a task that has it."""

import json

import pytest

from dispatcher.environment import Environment
from dispatcher.model import TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.rows import DAMAGE_REMEDY
from tests.contract.helpers import EMBEDDED, NOW, OneByOne, later, new_task

MINE = Environment({"PATH": "/mine", "TOKEN": "hunter2"})
OTHER = Environment({"PATH": "/other"})


def stored(store: OneByOne) -> list[str]:
    """Return the PATH of every stored environment, in the order of their ids."""
    with store.raw.transaction():
        rows = store.sql("SELECT variables FROM environments ORDER BY id")
    return [json.loads(text)["PATH"] for (text,) in rows]


def carrying(environment: Environment | None, **wanted: object) -> NewTask:
    return new_task(environment=environment, umask=0o27, **wanted)


def test_a_claim_has_the_environment_and_umask_of_its_submit(store: OneByOne) -> None:
    for environment in (MINE, None, OTHER):
        store.submit([carrying(environment)], now=NOW)
    store.new()

    claims = store.take(limit=4)

    assert [MINE, None, OTHER, None] == [claim.environment for claim in claims]
    assert [0o27, 0o27, 0o27, None] == [claim.umask for claim in claims]
    assert "hunter2" not in repr(claims)
    local = store.submit([carrying(MINE, queue="local")], now=NOW)[0].task_id
    claim = store.claim_local("local", owner="local:1", output_dir="/out", now=NOW)
    assert (local, MINE) == (claim.task_id, claim.environment)


def test_a_later_run_has_the_same_environment(store: OneByOne) -> None:
    store.submit([carrying(MINE)], now=NOW)
    (first,) = store.take()
    store.end(first, state=TaskState.FAILED)
    store.retry(first.task_id, now=NOW)

    (second,) = store.take()

    assert (MINE, 0o27) == (second.environment, second.umask)


def test_equal_environments_are_stored_once_and_a_clean_task_stores_none(store: OneByOne) -> None:
    same = Environment(dict(reversed(MINE.variables.items())))
    ids = [store.submit([carrying(one)], now=NOW)[0].task_id for one in (MINE, OTHER, same, None)]

    assert ["/mine", "/other"] == stored(store)
    found = [store.task(task_id).environment_id for task_id in ids]
    assert (found[0], None) == (found[2], found[3])
    assert found[0] != found[1]
    assert MINE == store.environment(found[0])
    assert store.environment(99) is None


def test_environments_with_one_checksum_are_two(store: OneByOne) -> None:
    twins = [Environment({"PATH": path}) for path in ("plumless", "buckeroo")]
    for environment in (*twins, *twins):
        store.submit([carrying(environment)], now=NOW)

    assert 1 == len({environment.checksum for environment in twins})
    assert ["plumless", "buckeroo"] == stored(store)
    assert [*twins, *twins] == [claim.environment for claim in store.take(limit=4)]


def test_an_environment_goes_with_the_last_task_that_has_it(store: OneByOne) -> None:
    for at, environment in enumerate((MINE, OTHER, MINE)):
        task_id = store.submit([carrying(environment)], now=NOW)[0].task_id
        store.cancel(task_id, "x", now=later(at))

    store.prune(before=later(1), limit=10)
    assert ["/mine", "/other"] == stored(store)
    store.prune(before=later(2), limit=10)
    assert ["/mine"] == stored(store)
    store.prune(before=later(3), limit=10)
    assert [] == stored(store)


def test_an_environment_whose_task_was_not_created_is_not_stored(store: OneByOne) -> None:
    first = store.submit([carrying(MINE, key="k")], now=NOW)[0].task_id

    again = store.submit([carrying(OTHER, key="k")], now=NOW)[0]

    assert (first, False) == (again.task_id, again.created)
    assert ["/mine"] == stored(store)
    assert not store.submit([carrying(MINE, key="k")], now=NOW)[0].created
    assert ["/mine"] == stored(store)


def test_a_bulk_submit_holds_an_environment_once_in_a_part_and_stores_it_once(
    store: OneByOne,
) -> None:
    parts = [[carrying(MINE), carrying(OTHER), carrying(MINE), carrying(None)], [carrying(MINE)]]
    for number, part in enumerate(parts):
        store.stage("bulk", number, part, now=NOW)
    with store.raw.transaction():
        texts = store.sql("SELECT tasks, environments FROM bulk_parts ORDER BY part")

    assert [0, 1, 0, None] == [task.get("environment") for task in json.loads(texts[0][0])]
    assert [["/mine", "/other"], ["/mine"]] == [
        [one["PATH"] for one in json.loads(environments)] for _, environments in texts
    ]
    assert [] == stored(store)
    store.accept("bulk", now=NOW)
    while store.admit("bulk", now=NOW):
        pass
    assert ["/mine", "/other"] == stored(store)
    assert [MINE, OTHER, MINE, None, MINE] == [one.environment for one in store.take(limit=9)]
    with store.raw.transaction():
        assert [(None,)] * 2 == store.sql("SELECT environments FROM bulk_parts")


def test_in_a_part_a_key_in_use_leaves_the_environment_that_its_neighbours_have(
    store: OneByOne,
) -> None:
    store.submit([carrying(None, key="k")], now=NOW)
    part = [carrying(OTHER, key="k"), carrying(MINE), carrying(MINE, key="k"), carrying(MINE)]
    store.stage("bulk", 0, part, now=NOW)
    store.accept("bulk", now=NOW)

    assert store.admit("bulk", now=NOW)

    assert ["/mine"] == stored(store)
    assert [None, MINE, MINE] == [one.environment for one in store.take(limit=9)]


@EMBEDDED
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE environments SET variables = 'x' WHERE id = 1",
        "UPDATE environments SET variables = '{\"A\": 5}' WHERE id = 1",
        'UPDATE environments SET variables = \'{"A=": ""}\' WHERE id = 1',
        "UPDATE environments SET variables = x'ff' WHERE id = 1",
        "UPDATE tasks SET environment_id = 77 WHERE id = 1",
        "UPDATE tasks SET environment_id = 'x' WHERE id = 1",
        "UPDATE tasks SET umask = 'x' WHERE id = 1",
    ],
)
def test_r81_a_damaged_environment_holds_its_task_and_no_other(
    store: OneByOne, damage: str
) -> None:
    store.submit([carrying(MINE)], now=NOW)
    store.submit([carrying(OTHER)], now=NOW)
    store.raw.engine.connection.execute("PRAGMA foreign_keys = OFF")
    store.raw.engine.connection.execute("PRAGMA ignore_check_constraints = ON")
    with store.raw.transaction():
        store.sql(damage)

    (claim,) = store.take(limit=5)

    assert (2, OTHER) == (claim.task_id, claim.environment)
    task = store.task(1)
    assert TaskState.HELD == task.state
    assert task.reason.startswith("damaged by hand: "), task.reason
    assert task.reason.endswith(DAMAGE_REMEDY)
    assert "hunter2" not in task.reason


@pytest.mark.parametrize("text", ["'x'", "'[5]'", '\'[{"A=": ""}]\'', "NULL", "'[]'"])
def test_a_part_whose_environments_are_damaged_waits_for_its_repair(
    store: OneByOne, text: str
) -> None:
    store.stage("bulk", 0, [carrying(MINE)], now=NOW)
    store.accept("bulk", now=NOW)
    with store.raw.transaction():
        store.sql(f"UPDATE bulk_parts SET environments = {text}")

    assert not store.admit("bulk", now=NOW)
    (message,) = store.damaged_parts()
    assert "environment" in message
    with store.raw.transaction():
        store.sql("UPDATE bulk_parts SET environments = :text", {"text": f"[{MINE.text}]"})
    assert store.admit("bulk", now=NOW)
