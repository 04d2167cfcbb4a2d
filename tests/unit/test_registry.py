"""Who a node is on a shared store: two daemons with one identity never work at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from dispatcher.errors import CommitUnknown, ConfigError, StoreUnavailable
from dispatcher.model import Liveness, Node, TaskState
from dispatcher.supervisor.node_row import SHARED_SEEN_INTERVAL
from dispatcher.supervisor.registry import SILENT_INTERVALS
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.stop import Stop
from tests.recorded_logs import expect_catalogued
from tests.simulation import NODE, SETTINGS, World
from tests.unit.test_supervisor import Unwell

OURS = NodeSession(uid="ours", boot_id="boot", pid_namespace="pid:[1]", state_dir="/var/lib/d")

#: The row of this node as another daemon wrote it.
THEIRS = Node(
    id=NODE,
    boot_id="another boot",
    pid_namespace="pid:[1]",
    hostname="elsewhere",
    slots=4,
    seen_at=World().now(),
    seen_interval_ms=5_000,
    session="theirs",
)

REMEDY = "delete /var/lib/d/node-id and /var/lib/d/executor.journal"


def shared(row: Node | None = None, **changes: Any) -> World:
    """Return a world whose store other nodes use, perhaps with a row of this node in it."""
    world = World(settings=replace(SETTINGS, session=OURS, **changes))
    if row is not None:
        write(world, row)
    return world


def write(world: World, row: Node, **changes: Any) -> None:
    with world.store.transaction() as now:
        assert world.store.record_node(replace(row, **{"seen_at": now, **changes}))


def row_of(world: World) -> Node:
    with world.store.snapshot():
        row = world.store.node(NODE)
    assert row is not None
    return row


def test_a_new_node_registers_before_it_reconciles_and_claims() -> None:
    world = shared()
    task = world.submit()
    world.executor.greet()

    with capture_logs() as logs:
        world.tick()
    expect_catalogued(logs)
    assert ["node.registered"] == [line["event"] for line in logs]
    assert "ours" == row_of(world).session
    assert TaskState.READY is world.state(task)
    world.settle_down()

    assert TaskState.RUNNING is world.state(task)


@pytest.mark.parametrize(
    "change",
    [
        {"session": ""},
        {"boot_id": "boot", "hostname": SETTINGS.hostname},
        {"session": "ours"},
    ],
    ids=["it was left", "of this boot and host", "its own, after a commit without an answer"],
)
def test_a_row_that_no_other_host_can_write_is_taken_at_once(change: dict[str, Any]) -> None:
    world = shared(replace(THEIRS, **change)).start()

    assert ("ours", "boot") == (row_of(world).session, row_of(world).boot_id)
    assert world.supervisor.report(at=world.at()).unregistered is None


@pytest.mark.parametrize("moved", [{}, {"hostname": "third", "session": "third"}])
def test_a_row_that_is_still_written_ends_the_newcomer_before_it_does_anything(
    moved: dict[str, Any],
) -> None:
    world = shared(THEIRS)
    task = world.submit()
    world.executor.greet()
    with capture_logs() as logs:
        world.tick()
    expect_catalogued(logs)
    assert ["node.watched"] == [line["event"] for line in logs]
    watched = world.supervisor.report(at=world.at()).unregistered or ""

    world.run_for(3)
    with world.store.transaction() as now:
        row = replace(THEIRS, **{"seen_at": now, **moved})
        world.store.take_node(row, was="theirs")
        world.store.record_node(row)
    with pytest.raises(ConfigError, match=REMEDY) as error:
        world.run_for(3)

    assert "another daemon of this node's identity was seen on elsewhere" in watched
    assert f"works on host {moved.get('hostname', 'elsewhere')}" in str(error.value)
    assert TaskState.READY is world.state(task)
    assert [] == world.executor.sent
    assert row.session == row_of(world).session


def test_a_row_that_nobody_writes_for_two_intervals_is_taken() -> None:
    world = shared(THEIRS)
    task = world.submit()
    world.executor.greet()

    world.run_for(SILENT_INTERVALS * 5 - 1)
    assert "theirs" == row_of(world).session
    world.run_for(2)

    assert "ours" == row_of(world).session
    assert TaskState.RUNNING is world.state(task)


@pytest.mark.parametrize(("silent", "left"), [(4.0, 6.0), (10.0, 0.0), (10**6, 0.0), (-50.0, 10.0)])
def test_the_time_for_which_a_row_was_silent_before_counts(silent: float, left: float) -> None:
    world = shared()
    write(world, THEIRS, seen_at=world.now() - round(silent * 1000))
    world.executor.greet()
    world.tick()

    if left:
        world.run_for(left - 0.01)
        assert "theirs" == row_of(world).session
        world.run_for(1)
    assert "ours" == row_of(world).session


def test_a_daemon_whose_identity_was_taken_stops_and_claims_nothing_more() -> None:
    world = shared().start()
    with world.store.transaction():
        assert world.store.take_node(THEIRS, was="ours")
    task = world.submit()

    with pytest.raises(ConfigError, match=f"taken the identity of this node.*{REMEDY}"):
        world.run_for(max(SHARED_SEEN_INTERVAL) + 1)

    assert TaskState.READY is world.state(task)
    assert "theirs" == row_of(world).session


def test_what_happens_meanwhile_is_kept_and_workers_try_again() -> None:
    world = shared().start()
    task = world.submit()
    world.settle_down()
    write(world, replace(THEIRS, session="ours", boot_id="b"))

    world.fresh_supervisor(session=replace(OURS, uid="next"))
    world.executor.greet()
    world.tick()
    world.executor.gone(world.uid(task), at=world.at())
    world.tick()
    assert TaskState.RUNNING is world.state(task)
    world.run_for(11)

    assert TaskState.SUCCEEDED is world.state(task)


def test_a_lease_that_expired_while_no_daemon_ran_is_spared_after_the_registration() -> None:
    """Taking the row must not hide how long this node was away."""
    world = shared().start()
    task = world.submit(liveness=Liveness.WORKER, lease_ttl_ms=10_000)
    world.settle_down()

    world.elapsed += 60
    world.restart(session=replace(OURS, uid="next"))
    world.run_for(5)

    assert TaskState.RUNNING is world.state(task)


def test_a_stop_waits_for_no_registration() -> None:
    world = shared(THEIRS)
    world.executor.greet()
    world.tick()

    world.supervisor.stop(Stop.DRAIN, at=world.at())

    assert world.supervisor.is_over(at=world.at())


def ends(world: World, task: int) -> None:
    world.gone(task)


def goes_on(_: World, __: int) -> None: ...


@pytest.mark.parametrize(("last", "session"), [(ends, ""), (goes_on, "ours")])
def test_a_daemon_leaves_its_row_once_nothing_of_it_runs(
    last: Callable[[World, int], None], session: str
) -> None:
    """A copy of its state directory must not work at once where its workers go on elsewhere."""
    world = shared().start()
    task = world.submit()
    world.settle_down()
    world.supervisor.stop(Stop.LEAVE, at=world.at())
    last(world, task)

    world.supervisor.leave()

    assert session == row_of(world).session


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), CommitUnknown("no answer")])
def test_a_registration_without_an_answer_is_tried_again(error: Exception) -> None:
    world = World(settings=replace(SETTINGS, session=OURS))
    store: Any = Unwell(world.store)
    world.store = store
    world.fresh_supervisor()
    store.failures = [(error, isinstance(error, CommitUnknown))]
    world.executor.greet()
    world.tick()
    task = world.submit()

    world.run_for(2)

    assert TaskState.RUNNING is world.state(task)


def test_the_row_of_a_shared_store_is_written_without_an_executor_too() -> None:
    world = shared()
    world.tick()
    world.tick()
    first = row_of(world).seen_at

    world.run_for(2 * max(SHARED_SEEN_INTERVAL))

    assert row_of(world).seen_at > first
    assert row_of(world).seen_interval_ms == max(SHARED_SEEN_INTERVAL) * 1000


def test_a_slow_poll_delays_no_row_of_a_shared_store() -> None:
    world = shared(poll=3600.0).start()
    world.run_for(100)

    age = world.now() - row_of(world).seen_at
    assert age <= max(SHARED_SEEN_INTERVAL) * 1000


def test_an_embedded_store_knows_no_sessions() -> None:
    world = World()
    write(world, replace(THEIRS, session=""))

    world.start()

    assert "" == row_of(world).session
    assert "boot" == row_of(world).boot_id
