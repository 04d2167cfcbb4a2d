"""The rows of nodes: who writes them, which take work, and which tasks they may run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.model import Node, TaskState
from dispatcher.nodes import Requiring
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from dispatcher.store.rows import DAMAGE_REMEDY, DAMAGED
from dispatcher.store.sql import SqlStore
from tests.contract.helpers import NODE, NOW, SHARED, OneByOne, later, new_task, on_all, settlement

ROW = Node(
    id=NODE,
    boot_id="boot",
    pid_namespace="pid:[1]",
    hostname="web-1",
    slots=4,
    seen_at=NOW,
    seen_interval_ms=5_000,
    session="one",
    release="1.2",
    labels={"gpu": "a100", "zone": "b"},
    obeys={"queue:night": "4 at once"},
)

OTHER = "node-2"


def claims(store: OneByOne, queue: str = "default", **wanted: Any) -> list[int]:
    """Claim as many tasks as there are; return their ids."""
    given = {"limit": 10, "node": NODE, "output_dir": "/out", "now": NOW, **wanted}
    return [claim.task_id for claim in store.claim(queue, **given)]


def test_a_daemon_takes_a_row_from_the_session_that_it_expects_alone(store: OneByOne) -> None:
    two, three = replace(ROW, session="two"), replace(ROW, session="three")

    assert store.take_node(ROW, was=None)
    assert not store.take_node(three, was=None)
    assert store.take_node(two, was=ROW)
    assert not store.take_node(three, was=ROW)

    assert "two" == store.node(NODE).session


def test_a_row_that_its_daemon_wrote_after_it_was_read_is_not_taken(store: OneByOne) -> None:
    store.take_node(ROW, was=None)
    read = store.node(NODE)
    store.record_node(replace(ROW, seen_at=later(9)))

    assert not store.take_node(replace(ROW, session="two"), was=read)

    assert "one" == store.node(NODE).session
    assert store.take_node(replace(ROW, session="two"), was=store.node(NODE))


def test_who_takes_a_row_leaves_when_it_was_seen_and_says_where_it_is(store: OneByOne) -> None:
    store.take_node(ROW, was=None)
    new = replace(ROW, session="two", boot_id="b2", hostname="web-2", seen_at=later(9), slots=8)

    store.take_node(new, was=ROW)

    taken = replace(ROW, session="two", boot_id="b2", hostname="web-2")
    assert taken == store.node(NODE)
    assert store.record_node(new)
    assert new == store.node(NODE)


def test_only_its_session_writes_a_row(store: OneByOne) -> None:
    store.take_node(ROW, was=None)
    store.take_node(replace(ROW, session="two"), was=ROW)

    assert not store.record_node(replace(ROW, seen_at=later(9)))

    assert NOW == store.node(NODE).seen_at


def test_a_session_gives_up_its_own_row_alone(store: OneByOne) -> None:
    store.take_node(ROW, was=None)

    store.leave_node(NODE, "two")
    assert "one" == store.node(NODE).session
    store.leave_node(NODE, "one")
    assert "" == store.node(NODE).session


def test_a_daemon_whose_session_was_replaced_claims_nothing(store: OneByOne) -> None:
    task = store.new()
    store.take_node(ROW, was=None)
    store.take_node(replace(ROW, session="two"), was=ROW)

    assert [] == claims(store, session="one")
    assert [] == store.ready_queues(after="", limit=9, node=NODE, session="one")
    assert ["default"] == store.ready_queues(after="", limit=9, node=NODE, session="two")
    assert [task] == claims(store, session="two")


def test_a_node_that_drains_claims_nothing_until_it_is_resumed(store: OneByOne) -> None:
    task = store.new()
    store.record_node(replace(ROW, session=""))

    assert store.drain_node(NODE, "new kernel", now=NOW)
    assert not store.drain_node("unknown", "why", now=NOW)

    assert "new kernel" == store.node(NODE).draining
    assert [] == claims(store) == store.ready_queues(after="", limit=9, node=NODE)
    assert ["default"] == store.ready_queues(after="", limit=9, node=OTHER)
    assert store.resume_node(NODE, now=NOW)
    assert not store.resume_node(NODE, now=NOW)
    assert [task] == claims(store)


def test_a_daemon_that_writes_its_row_goes_on_draining(store: OneByOne) -> None:
    row = replace(ROW, session="")
    store.record_node(row)
    store.drain_node(NODE, "new kernel", now=NOW)

    assert store.record_node(replace(row, seen_at=later(1)))

    assert "new kernel" == store.node(NODE).draining


def test_a_claim_by_hand_asks_no_node(store: OneByOne) -> None:
    store.record_node(replace(ROW, session=""))
    store.drain_node(NODE, "new kernel", now=NOW)
    task = store.new()

    claim = store.claim_local("default", owner="local:1", output_dir="/out", now=NOW)

    assert task == claim.task_id


@pytest.mark.parametrize(
    ("change", "now", "forgotten"),
    [
        ({}, later(14_999), False),
        ({}, later(15_000), True),
        ({"session": ""}, later(1), None),
    ],
)
def test_a_node_that_may_live_is_not_forgotten(
    store: OneByOne, change: dict[str, Any], now: Any, forgotten: bool | None
) -> None:
    """On an embedded store no row has a session, so that none tells that its daemon stopped."""
    if forgotten is None:
        forgotten = store.raw.engine.dialect.shared
    store.record_node(replace(ROW, **change))

    assert forgotten is store.forget_node(NODE, now=now)

    assert forgotten is (store.node(NODE) is None)


def test_a_node_with_claims_is_not_forgotten(store: OneByOne) -> None:
    store.record_node(replace(ROW, session=""))
    claim = store.claimed()

    assert not store.forget_node(NODE, now=later(10**6))
    assert {NODE: 1} == store.running_by_node()
    store.end(claim)
    assert {} == store.running_by_node()
    assert store.forget_node(NODE, now=later(10**6))


def test_a_claim_by_hand_counts_for_no_node_and_no_queue(store: OneByOne) -> None:
    store.new()
    store.claim_local("default", owner="local:1", output_dir="/out", now=NOW)

    assert {} == store.running_by_node()
    assert 0 == store.running_in("default")


# Labels ----------------------------------------------------------------------------------


def test_a_node_claims_only_what_requires_none_but_its_labels(store: OneByOne) -> None:
    anywhere = store.new()
    a100 = store.new(requires={"gpu": "a100"})
    both = store.new(requires={"gpu": "a100", "zone": "b"})
    v100 = store.new(requires={"gpu": "v100"})
    disk = store.new(requires={"disk": "ssd"})

    assert [anywhere] == claims(store)
    assert [a100] == claims(store, labels={"gpu": "a100"})
    assert [both] == claims(store, labels={"gpu": "a100", "zone": "b", "disk": "hdd"})
    assert [] == claims(store, labels={"gpu": "A100", "disk": ""})
    assert [v100, disk] == claims(store, labels={"gpu": "v100", "disk": "ssd"})


@pytest.mark.parametrize("text", ['"', "it's", "\\", "é😀", "a=b", "%s", "{0}", "\n"])
def test_a_label_of_any_text_is_found(store: OneByOne, text: str) -> None:
    task = store.new(requires={"a": text})

    assert [] == claims(store, labels={"a": f"{text}x"})
    assert [task] == claims(store, labels={"a": text})


def test_what_a_task_requires_is_read_and_edited(store: OneByOne) -> None:
    task_id = store.new(requires={"gpu": "a100"})
    task = store.task(task_id)
    assert {"gpu": "a100"} == task.requires

    assert store.edit(task, replace(task, requires={"zone": "b"}), now=NOW)
    assert {"zone": "b"} == store.task(task_id).requires
    task = store.task(task_id)
    assert store.edit(task, replace(task, requires={}), now=NOW)

    assert {} == store.task(task_id).requires
    assert store.column("requires", task_id) is None


def test_a_task_that_requires_nothing_stores_nothing(store: OneByOne) -> None:
    assert store.column("requires", store.new()) is None


def test_a_task_of_a_bulk_submit_requires_the_same(store: OneByOne) -> None:
    store.stage("bulk", 0, [new_task(requires={"gpu": "a100"})], now=NOW)
    store.accept("bulk", now=NOW)
    store.admit("bulk", now=NOW)

    ((made,),) = (store.submitted("bulk", 0),)
    assert {"gpu": "a100"} == store.task(made.task_id).requires


@pytest.mark.parametrize("text", ["nope", "{", '{"a'])
def test_a_task_whose_requirements_are_damaged_is_held_by_the_first_who_may_claim_it(
    store: OneByOne, text: str
) -> None:
    damaged, other = store.new(requires={"a": "b"}), store.new()
    with store.raw.transaction():
        change = "UPDATE tasks SET requires = :text WHERE id = :id"
        store.raw.engine.change(change, {"id": damaged, "text": text})

    assert [other] == claims(store)
    assert TaskState.READY is store.task(damaged).state
    assert [] == claims(store, labels={"a": "b"})

    found = store.task(damaged)
    assert TaskState.HELD is found.state
    assert found.reason.startswith(f"{DAMAGED}requires: ")
    assert found.reason.endswith(DAMAGE_REMEDY)


def test_the_next_task_for_a_claim_by_hand_fits_its_host_and_a_named_one_need_not(
    store: OneByOne,
) -> None:
    first, second = store.new(requires={"gpu": "a100"}), store.new()
    given: dict[str, Any] = {"owner": "local:1", "output_dir": "/out", "now": NOW}

    assert second == store.claim_local("default", **given).task_id
    assert store.claim_local("default", **given) is None
    assert first == store.claim_local("default", task_id=first, **given).task_id


def test_ready_tasks_that_require_labels_are_counted_by_themselves(store: OneByOne) -> None:
    for _ in range(2):
        store.new(queue="b", requires={"gpu": "a100"})
    store.new(queue="a", requires={"gpu": "a100", "zone": "b"})
    store.new(queue="a", requires={"gpu": "v100"}, delay_ms=5)
    store.new(queue="b")

    found = store.requiring(limit=9)

    assert [
        Requiring(queue="a", requires={"gpu": "a100", "zone": "b"}, tasks=1, since=NOW),
        Requiring(queue="b", requires={"gpu": "a100"}, tasks=2, since=NOW),
    ] == found
    assert found[:1] == store.requiring(limit=1)
    assert {"a", "b"} == store.ready_since().keys()
    assert {"b"} == store.ready_since(anywhere=True).keys()


def test_unfinished_may_leave_out_what_a_node_lacks(store: OneByOne) -> None:
    store.new(requires={"gpu": "a100"})
    store.new(requires={"gpu": "a100"}, delay_ms=5)

    assert store.has_unfinished()
    assert not store.has_unfinished(labels={})
    assert store.has_unfinished(labels={"gpu": "a100"})


# Limits of a queue on all nodes ----------------------------------------------------------


def test_no_more_tasks_of_a_queue_run_on_all_nodes_than_its_limit(store: OneByOne) -> None:
    store.add_limits(["queue:q"])
    tasks = [store.new(queue="q") for _ in range(5)]

    assert tasks[:2] == claims(store, "q", limit=2, limits=on_all(3))
    assert tasks[2:3] == claims(store, "q", limit=2, limits=on_all(3), node=OTHER)
    assert [] == claims(store, "q", limit=2, limits=on_all(3))
    assert 3 == store.running_in("q")

    with store.raw.transaction():
        store.raw.settle([settlement(run) for run in store.raw.open_runs(OTHER)], now=NOW)
    assert tasks[3:4] == claims(store, "q", limit=2, limits=on_all(3))


def test_a_limit_is_of_its_queue_alone(store: OneByOne) -> None:
    store.add_limits(["queue:p", "queue:q"])
    store.add_limits(["queue:q"])
    tasks = [store.new(queue=queue) for queue in ("p", "q")]

    assert [[task] for task in tasks] == [
        claims(store, queue, limits=on_all(1, queue)) for queue in ("p", "q")
    ]


def test_a_queue_with_a_limit_that_was_lowered_gets_nothing_more(store: OneByOne) -> None:
    store.add_limits(["queue:q"])
    for _ in range(4):
        store.new(queue="q")
    claims(store, "q", limit=3, limits=on_all(3))

    assert [] == claims(store, "q", limits=on_all(2))


@pytest.fixture
def another(url: str, tmp_path: Path) -> Iterator[Store]:
    store = open_store(url, state_dir=tmp_path / "another", patience=0.2)
    yield store
    store.close()


@SHARED
def test_of_two_nodes_that_claim_at_once_one_passes_a_limited_queue_over(
    store: OneByOne, raw: SqlStore, another: Store
) -> None:
    store.add_limits(["queue:q"])
    tasks = [store.new(queue="q") for _ in range(4)]
    given: dict[str, Any] = {"limit": 1, "output_dir": "/out", "limits": on_all(2), "now": NOW}

    with raw.transaction(), another.transaction():
        first = raw.claim("q", node=NODE, **given)
        second = another.claim("q", node=OTHER, **given)
        assert [] == second, "and it did not wait"
    with another.transaction():
        third = another.claim("q", node=OTHER, **given)

    assert [tasks[:1], tasks[1:2]] == [[one.task_id for one in some] for some in (first, third)]
    assert [] == claims(store, "q", limits=on_all(2))


@SHARED
@pytest.mark.parametrize("most", [1, 7])
def test_claims_of_many_at_once_never_exceed_a_limit(
    store: OneByOne, url: str, tmp_path: Path, most: int
) -> None:
    """Four nodes claim and settle at once. Within the claim's transaction the limit is locked."""
    store.add_limits(["queue:q"])
    for _ in range(60):
        store.new(queue="q")

    def work(number: int) -> int:
        highest, mine = 0, open_store(url, state_dir=tmp_path / str(number), patience=5.0)
        for _ in range(1_000):
            with mine.transaction() as now:
                given = {"node": f"node-{number}", "output_dir": "/out", "now": now}
                claimed = mine.claim("q", limit=3, limits=on_all(most), **given)
                highest = max(highest, mine.running_in("q") if claimed else 0)
            with mine.transaction() as now:
                mine.settle([settlement(one, ended_at=now) for one in claimed], now=now)
                if not mine.has_unfinished():
                    break
        mine.close()
        return highest

    with ThreadPoolExecutor(4) as threads:
        highest = max(threads.map(work, range(4)))

    assert 0 < highest <= most
    assert {TaskState.SUCCEEDED} == set(store.states().values())
