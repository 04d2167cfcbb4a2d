"""Who a node is on a shared store: two daemons with one identity never work at once."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher.errors import CommitUnknown, ConfigError, StoreRefused, StoreUnavailable
from dispatcher.model import Liveness, Node, TaskState
from dispatcher.named_limits import Rule
from dispatcher.supervisor.node_row import SHARED_SEEN_INTERVAL
from dispatcher.supervisor.outage import RETURN
from dispatcher.supervisor.registry import LOOK_INTERVAL, watch_of
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.stop import Stop
from tests.recorded_logs import expect_catalogued
from tests.simulation import NODE, SETTINGS, World
from tests.unit.replicated import Cluster, Host, settings
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

WATCH = watch_of(THEIRS)

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


def row_of(world: World, node: str = NODE) -> Node:
    with world.store.snapshot():
        row = world.store.node(node)
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
        world.store.take_node(row, was=world.store.node(NODE))
        world.store.record_node(row)
    with pytest.raises(ConfigError, match=REMEDY) as error:
        world.run_for(3)

    assert "another daemon of this node's identity was seen on elsewhere" in watched
    assert f"works on host {moved.get('hostname', 'elsewhere')}" in str(error.value)
    assert TaskState.READY is world.state(task)
    assert [] == world.executor.sent
    assert row.session == row_of(world).session


@pytest.mark.parametrize("silent", [0.0, 10.0, 10**6, -50.0])
def test_a_row_is_watched_for_as_long_however_long_it_was_silent_before(silent: float) -> None:
    """It may have been silent because the server was."""
    world = shared()
    write(world, THEIRS, seen_at=world.now() - round(silent * 1000))
    task = world.submit()
    world.executor.greet()
    with capture_logs() as logs:
        world.run_for(WATCH - 0.01)
        assert "theirs" == row_of(world).session
        world.run_for(1)

    expect_catalogued(logs)
    assert [("elsewhere", WATCH)] == [
        (line["hostname"], line["timeout_s"]) for line in logs if line["event"] == "node.watched"
    ]
    assert "ours" == row_of(world).session
    assert TaskState.RUNNING is world.state(task)


def test_a_row_is_taken_though_each_look_takes_longer_than_the_interval() -> None:
    world = shared(THEIRS)
    world.executor.greet()
    step, looks = 1.2, 0
    while "theirs" == row_of(world).session and looks < 100:
        world.tick()
        world.elapsed += step
        looks += 1

    assert WATCH / LOOK_INTERVAL <= looks < 100


@pytest.mark.parametrize("interval", [*SHARED_SEEN_INTERVAL, 60.0])
def test_a_row_is_watched_for_longer_than_any_interval_at_which_it_is_written(
    interval: float,
) -> None:
    """Its daemon writes less often than the row says once its last run has ended."""
    row = replace(THEIRS, seen_interval_ms=round(interval * 1000))

    assert max(interval, *SHARED_SEEN_INTERVAL) + RETURN < watch_of(row)


# A copy while the store is away ------------------------------------------------------------


@pytest.fixture
def original() -> Host:
    """A node of which a copy will start elsewhere."""
    return Cluster().host("here")


def copy_of(host: Host) -> Host:
    """Return a copy of a node's machine, as it starts."""
    copy = Host(settings=replace(settings("copy"), node_id="here"), server=host.server)
    copy.elapsed, copy.deadline = host.elapsed, host.at()
    copy.executor.greet()
    return copy


def pass_by(seconds: float, *hosts: Host) -> None:
    """Let time pass for hosts, of which at each instant the first is the fastest."""
    for _ in range(round(seconds * 10)):
        for host in hosts:
            host.run_for(0.1)


@pytest.mark.parametrize("starts", ["before the server returns", "after it returned"])
@pytest.mark.parametrize("outage", [1.0, 30.0, 3600.0])
def test_a_copy_that_starts_as_the_server_returns_does_nothing_and_the_original_goes_on(
    original: Host, outage: float, starts: str
) -> None:
    """The outage is no silence of the original's daemon, whose workers live."""
    task = original.submit()
    original.settle_down()
    original.shared.is_cut = True
    original.run_for(outage)
    copy = copy_of(original)
    if starts == "before the server returns":
        copy.shared.is_cut = True
        pass_by(20, copy, original)
        copy.shared.is_cut = False
    original.shared.is_cut = False

    with pytest.raises(ConfigError, match="another daemon of node here works on host here"):
        pass_by(WATCH + 1, copy, original)

    original.run_for(30)
    assert [] == copy.executor.starts
    assert [None] == [run.outcome for run in original.runs(task)]
    assert TaskState.RUNNING is original.state(task)


@pytest.mark.parametrize("watched", [0.0, 4.9, 9.9])
@pytest.mark.parametrize("outage", [1.0, 4.5, 6.0, 60.0])
def test_an_outage_while_a_copy_watches_is_no_silence_of_the_original(
    original: Host, watched: float, outage: float
) -> None:
    original.run_for(10 - original.elapsed % 10)  # it has just written its row
    copy = copy_of(original)
    pass_by(watched, copy, original)
    original.shared.is_cut = copy.shared.is_cut = True
    pass_by(outage, copy, original)
    copy.shared.is_cut = False
    pass_by(RETURN, copy, original)
    assert "here" == row_of(original, "here").session
    original.shared.is_cut = False

    with pytest.raises(ConfigError, match="another daemon of node here works on host here"):
        pass_by(WATCH + 1, copy, original)


def test_one_outage_after_another_is_no_silence_of_the_original(original: Host) -> None:
    original.run_for(10 - original.elapsed % 10)  # it has just written its row
    copy = copy_of(original)
    for _ in range(6):
        original.shared.is_cut = copy.shared.is_cut = True
        pass_by(3.0, copy, original)
        copy.shared.is_cut = False
        pass_by(1.0, copy, original)
    assert "here" == row_of(original, "here").session
    original.shared.is_cut = False

    with pytest.raises(ConfigError, match="another daemon of node here works on host here"):
        pass_by(WATCH + 1, copy, original)


def test_a_copy_whose_host_stood_still_during_an_outage_watches_anew(original: Host) -> None:
    copy = copy_of(original)
    copy.tick()
    original.shared.is_cut = True
    original.run_for(60)
    copy.elapsed = original.elapsed
    original.shared.is_cut = False

    with pytest.raises(ConfigError, match="another daemon of node here works on host here"):
        pass_by(WATCH + 1, copy, original)


def test_a_failover_while_a_row_is_watched_is_no_write_of_it(original: Host) -> None:
    """The replica has an older row, and nobody wrote that; the original's host is gone."""
    original.run_for(30)
    original.server.part()
    original.run_for(30)
    moved = copy_of(original)
    moved.run_for(5)
    original.server.fail_over()

    moved.run_for(WATCH - 1)
    assert "here" == row_of(moved, "here").session
    moved.run_for(2)
    assert "copy" == row_of(moved, "here").session


def test_a_node_whose_host_was_renamed_is_itself_again_after_one_watch(original: Host) -> None:
    task = original.submit()
    original.settle_down()
    session = settings("renamed").session
    original.fresh_supervisor(session=session, hostname="renamed")
    original.executor.greet()
    with capture_logs() as logs:
        original.run_for(WATCH + 1)

    assert ["here"] == [line["hostname"] for line in logs if line["event"] == "node.watched"]
    assert "renamed" == row_of(original, "here").hostname
    assert TaskState.RUNNING is original.state(task)
    assert 1 == len(original.runs(task))


# What else its identity needs --------------------------------------------------------------


def test_a_daemon_whose_identity_was_taken_stops_and_claims_nothing_more() -> None:
    world = shared().start()
    with world.store.transaction():
        assert world.store.take_node(THEIRS, was=world.store.node(NODE))
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
    world.run_for(WATCH + 1)

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


def is_stranded(world: World, task: int) -> None:
    world.executor.alive[world.uid(task)] = "its process 7 lives"
    world.executor.die()
    world.executor.greet()
    world.settle_down()


@pytest.mark.parametrize(
    ("last", "session"), [(ends, ""), (goes_on, "ours"), (is_stranded, "ours")]
)
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


@pytest.mark.parametrize(
    "error", [StoreUnavailable("no answer"), CommitUnknown("no answer"), StoreRefused("CHECK")]
)
def test_a_registration_that_the_store_does_not_take_is_tried_again(error: Exception) -> None:
    world = World(settings=replace(SETTINGS, session=OURS))
    store: Any = Unwell(world.store)
    world.store = store
    world.fresh_supervisor()
    store.failures = [(error, isinstance(error, CommitUnknown))]
    world.executor.greet()
    with capture_logs() as logs:
        world.tick()
    expect_catalogued(logs)
    assert [str(error)] == [one["error"] for one in logs if one["event"] == "store.unavailable"]
    assert world.supervisor.report(at=world.at()).store_silent_for_s is not None
    task = world.submit()

    world.run_for(2)

    assert TaskState.RUNNING is world.state(task)


def test_a_daemon_with_runs_outlives_a_refusal_of_its_row_after_a_failover(
    original: Host,
) -> None:
    task = original.submit()
    original.settle_down()
    original.server.fail_over()
    take, refusals = original.shared.take_node, [StoreRefused("CHECK")] * 3

    def refuse(node: Node, *, was: Node | None) -> bool:
        if refusals:
            raise refusals.pop()
        return take(node, was=was)

    original.shared.take_node = refuse  # type: ignore[method-assign]
    original.run_for(20)

    assert [] == refusals
    assert TaskState.RUNNING is original.state(task)
    assert 1 == len(original.runs(task))


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


OTHER = replace(THEIRS, id="5a7c0c3e-0000-4000-8000-00000000000f")


def differences(logs: list[Any]) -> list[tuple[str, str]]:
    expect_catalogued(logs)
    return [(one["limit"], one["reason"]) for one in logs if one["event"] == "limits.differ"]


def test_a_limit_that_another_nodes_file_sets_otherwise_is_logged_once_for_each_configuration() -> (
    None
):
    world = shared(limits={"queue:night": Rule(concurrency=4)})
    write(world, OTHER, obeys={"queue:night": "8 at once"})

    with capture_logs() as logs:
        world.start()
        world.run_for(60)
    text = "8 at once on elsewhere; 4 at once on here"
    assert [("queue:night", text)] == differences(logs)
    assert {"queue:night": "4 at once"} == row_of(world).obeys

    eight = replace(world.settings, limits={"queue:night": Rule(concurrency=8)})
    with capture_logs() as logs:
        world.supervisor.reconfigure(eight)
        write(world, OTHER, obeys={"queue:night": "8 at once"})
        world.settle_down()
    assert [] == differences(logs)


def test_who_has_no_limits_reads_no_rows_of_other_nodes() -> None:
    world = shared()
    write(world, OTHER, obeys={"queue:night": "8 at once"})

    with capture_logs() as logs:
        world.start()
    assert [] == differences(logs)
