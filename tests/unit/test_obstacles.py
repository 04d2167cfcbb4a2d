"""Why tasks are not running, and what counts as stuck, in virtual time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest
from msgspec.structs import replace

from dispatcher import control, wire
from dispatcher.cli.verbs.status import status_json
from dispatcher.config.config import Config, load
from dispatcher.errors import StoreUnavailable
from dispatcher.model import PausedQueue, TaskState
from dispatcher.named_limits import Rule, parse_rate
from dispatcher.nodes import viewed
from dispatcher.obstacles import Obstacle, Standing
from dispatcher.overview import MOST_GROUPS, STUCK_AFTER, Status
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.stop import Stop
from dispatcher.times import StoreTime, WallTime, iso
from tests.command import Command
from tests.reports import report
from tests.simulation import NODE, SETTINGS, World
from tests.unit.replicated import Host, settings
from tests.unit.test_locked_rows import LockedHosts
from tests.unit.test_registry import THEIRS
from tests.unit.test_supervisor import Unwell


def standing_of(
    world: World, daemon: Literal["running", "not running", "not answering"] = "running"
) -> Standing:
    """Return how the node stands: of the store, and of the supervisor if it answers."""
    report = world.supervisor.report(at=world.at()) if daemon == "running" else None
    with world.store.snapshot():
        calendar = world.store.calendar()
        paused = {one.queue: one for one in world.store.paused_queues()}
        nodes = world.store.nodes()
        limits = world.store.limit_views(world.settings.limits, now=calendar.now)
    is_up = daemon == "running"
    views = viewed(nodes, {}, here=NODE, is_up=is_up, is_shared=False, now=calendar.now)
    return Standing(
        calendar=calendar,
        paused=paused,
        node=next(iter(nodes), None),
        daemon=daemon,
        report=report,
        nodes=views,
        limits=limits,
    )


def status_of(world: World) -> Status:
    standing = standing_of(world)
    with world.store.snapshot():
        return Status(
            standing=standing,
            counts=world.store.counts(),
            ready_since=world.store.ready_since(anywhere=True),
            requiring=world.store.requiring(limit=MOST_GROUPS),
            leases=world.store.leases(),
        )


def shown(world: World, tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "dispatcher.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}"')
    return status_json(status_of(world), load(str(file), {"RUNTIME_DIRECTORY": "/r"}))


def begun(**changes: Any) -> World:
    """Return a world whose daemon has just begun, and found its executor."""
    world = World(settings=replace(SETTINGS, **changes))
    world.supervisor.figures.began_at = world.at()
    return world.start()


# One scene for each obstacle ------------------------------------------------------------

Scene = tuple[World, int]


def held() -> Scene:
    world = begun()
    task = world.submit(delay_ms=5_000)
    with world.store.transaction() as now:
        world.store.hold(task, "disk is full", now=now)
    return world, task


def not_due() -> Scene:
    world = begun()
    task = world.submit(delay_ms=5_000)
    world.settle_down()
    return world, task


def queue_paused() -> Scene:
    world = begun()
    with world.store.transaction() as now:
        world.store.pause("default", "upgrade", now=now)
    task = world.submit()
    world.settle_down()
    return world, task


def any_daemon() -> Scene:
    world = World()
    return world, world.submit()


def daemon_stopping() -> Scene:
    world = begun()
    world.submit()
    world.settle_down()
    world.supervisor.stop(Stop.DRAIN, at=world.at())
    task = world.submit()
    world.settle_down()
    return world, task


def store_silent() -> Scene:
    world = World()
    store: Any = Unwell(world.store)
    world.store = store
    world.fresh_supervisor().figures.began_at = world.at()
    world.start()
    task = world.submit()
    store.failures = [(StoreUnavailable("locked"), False)]
    world.tick()
    return world, task


def executor_missing() -> Scene:
    world = World()
    task = world.submit()
    world.settle_down()
    return world, task


def executor_silent() -> Scene:
    world = begun()
    world.executor.answering = False
    task = world.submit()
    world.settle_down()
    return world, task


def executor_incompatible() -> Scene:
    world = World()
    world.executor.incompatible = world.executor.hello(version=2)
    task = world.submit()
    world.settle_down()
    return world, task


def unknown_runs() -> Scene:
    world = World()
    uid = wire.RunUid("f" * 32)
    world.executor.runs[uid] = wire.RunReport(
        uid=uid, state=wire.RunState.RUNNING, pid=5, start_ticks=1
    )
    world.start()
    task = world.submit()
    world.settle_down()
    return world, task


def failed_over() -> Scene:
    world = Host(settings=replace(settings("here"), node_id=NODE))
    world.start()
    world.server.fail_over()
    task = world.submit()
    world.settle_down()
    world.run_for(0.1)
    return world, task


def node_locked() -> Scene:
    hosts = LockedHosts(count=1, node_id=NODE)
    (world,) = hosts.start()
    hosts.locks.nodes.add(NODE)
    task = world.submit()
    hosts.run_for(2)
    return world, task


def node_paused() -> Scene:
    world = begun()
    fault = wire.StartFailed(uid=wire.RunUid(""), fault=wire.Fault.HOST, error="no descriptors")
    world.executor.refusal = fault
    tasks = [world.submit() for _ in range(4)]
    world.settle_down()
    return world, tasks[-1]


def node_unregistered() -> Scene:
    session = NodeSession(uid="ours", boot_id="boot", pid_namespace="pid:[1]", state_dir="/state")
    world = World(settings=replace(SETTINGS, session=session))
    world.supervisor.figures.began_at = world.at()
    with world.store.transaction() as now:
        world.store.record_node(replace(THEIRS, seen_at=now))
    world.start()
    return world, world.submit()


def node_draining() -> Scene:
    world = begun()
    with world.store.transaction() as now:
        world.store.drain_node(NODE, "new kernel", now=now)
    return world, world.submit()


def labels_missing() -> Scene:
    world = begun(labels={"gpu": "v100"})
    task = world.submit(requires={"gpu": "a100", "zone": "b"})
    world.settle_down()
    return world, task


def queue_full() -> Scene:
    world = begun(concurrency={"default": 1})
    world.submit()
    task = world.submit()
    world.settle_down()
    return world, task


def key_is_taken() -> Scene:
    world = begun()
    world.submit(concurrency_key="k")
    task = world.submit(concurrency_key="k")
    world.settle_down()
    return world, task


def limit_closed() -> Scene:
    world = begun()
    with world.store.transaction() as now:
        world.store.close_limit("provider", "over its budget", until=later(now, 9_000), now=now)
    task = world.submit(takes={"provider": 1})
    world.settle_down()
    return world, task


def limit_full() -> Scene:
    world = begun(limits={"provider": Rule(concurrency=1)})
    world.submit(takes={"provider": 1})
    task = world.submit(takes={"provider": 1})
    world.settle_down()
    return world, task


def limit_rate() -> Scene:
    world = begun(limits={"provider": Rule(rate=parse_rate("1/7s"))})
    first = world.submit(takes={"provider": 1})
    world.settle_down()
    world.gone(first)
    task = world.submit(takes={"provider": 1})
    world.settle_down()
    return world, task


def later(now: StoreTime, milliseconds: int) -> StoreTime:
    return StoreTime(now + milliseconds)


def slots_full() -> Scene:
    world = begun(slots=1)
    world.submit()
    task = world.submit()
    world.settle_down()
    return world, task


def parents() -> Scene:
    world = begun()
    return world, world.submit(after=(world.submit(),))


def turn_comes() -> Scene:
    world = begun()
    return world, world.submit()


SCENES: Mapping[Obstacle, tuple[Callable[[], Scene], str]] = {
    Obstacle.HELD: (held, "it waits for an operator"),
    Obstacle.PARENTS: (parents, "it waits for a task: dispatcher show 2"),
    Obstacle.NOT_DUE: (not_due, "it is due at 2027-01-15T08:00:05.000Z"),
    Obstacle.QUEUE_PAUSED: (
        queue_paused,
        (
            "its queue default is paused since 2027-01-15T08:00:00.000Z: upgrade;"
            " dispatcher resume default"
        ),
    ),
    Obstacle.DAEMON_STOPPING: (
        daemon_stopping,
        "the daemon is stopping (drain): the next one continues",
    ),
    Obstacle.STORE_SILENT: (store_silent, "the store has not answered the daemon for 0.0 s"),
    Obstacle.EXECUTOR_MISSING: (
        executor_missing,
        (
            "the executor is missing, and the daemon waits for it; nothing starts or ends until it"
            " runs"
        ),
    ),
    Obstacle.EXECUTOR_SILENT: (
        executor_silent,
        "the executor is silent; nothing starts or ends until it answers",
    ),
    Obstacle.EXECUTOR_INCOMPATIBLE: (
        executor_incompatible,
        (
            f"the executor, pid 99, speaks version 2, {wire.VERSION} is wanted; nothing starts or"
            " ends until you restart it, when nothing runs"
        ),
    ),
    Obstacle.UNKNOWN_RUNS: (
        unknown_runs,
        "a run that the store does not know is being ended first",
    ),
    Obstacle.FAILED_OVER: (
        failed_over,
        (
            "the store failed over or was restored, and may have forgotten claims: nothing is"
            " claimed for 10 s more, as nodes that it forgot may come back"
        ),
    ),
    Obstacle.NODE_LOCKED: (
        node_locked,
        (
            f"another session (pid 7 at {NODE}) holds a lock on this node's row; nothing is"
            " claimed until it ends"
        ),
    ),
    Obstacle.NODE_PAUSED: (
        node_paused,
        "this node is paused: no descriptors; one task is tried at 2027-01-15T08:00:01.000Z",
    ),
    Obstacle.NODE_UNREGISTERED: (
        node_unregistered,
        (
            "another daemon of this node's identity was seen on elsewhere; it is watched until it"
            " counts as gone"
        ),
    ),
    Obstacle.NODE_DRAINING: (
        node_draining,
        "this node takes no more work: new kernel; dispatcher node resume here",
    ),
    Obstacle.LABELS_MISSING: (
        labels_missing,
        (
            "it requires gpu=a100 zone=b, and no node that takes work has that: here has gpu=v100"
            " and has no zone"
        ),
    ),
    Obstacle.QUEUE_FULL: (
        queue_full,
        (
            "its queue default has 1 running here, as many as [queues.default] concurrency allows;"
            " local claims do not count"
        ),
    ),
    Obstacle.KEY_TAKEN: (
        key_is_taken,
        "its concurrency key is taken by task 1, which is before it",
    ),
    Obstacle.LIMIT_CLOSED: (
        limit_closed,
        (
            "limit provider is closed since 2027-01-15T08:00:00.000Z, until"
            " 2027-01-15T08:00:09.000Z: over its budget; dispatcher limit open provider"
        ),
    ),
    Obstacle.LIMIT_FULL: (limit_full, "limit provider has 1 of 1 held by task 1"),
    Obstacle.LIMIT_RATE: (limit_rate, "limit provider lets 1/7s start, and 1 have"),
    Obstacle.SLOTS_FULL: (slots_full, "the one slot is busy"),
    Obstacle.TURN_COMES: (turn_comes, "nothing keeps it from running: its turn comes"),
}

#: Seconds until those end that end by themselves.
ENDS_IN = {
    Obstacle.NOT_DUE: 5_000,
    Obstacle.NODE_PAUSED: 1_000,
    Obstacle.LIMIT_CLOSED: 9_000,
    Obstacle.LIMIT_RATE: 7_000,
}


def test_an_outage_by_a_lock_is_named_so() -> None:
    standing = standing_of(begun())
    assert standing.report is not None
    locked = replace(standing.report, store_silent_for_s=3.0, store_locked=True)

    (fault,) = replace(standing, report=locked).faults()

    text = "another session has held a lock that the daemon needs for 3.0 s"
    assert (Obstacle.STORE_SILENT, text) == (fault.obstacle, fault.text)


def test_a_queue_for_claims_by_hand_is_reported_as_such_and_never_stuck() -> None:
    texts = (
        "its queue default is for local claims here ([queues.default] concurrency = 0):"
        " dispatcher claim --queue default"
    )
    world = begun(concurrency={"default": 0})
    task = world.task(world.submit())
    world.run_for(STUCK_AFTER * 2)
    world.executor.answering = False
    world.settle_down()

    running, absent = standing_of(world), standing_of(world, "not running")

    for standing in (running, replace(absent, by_hand={"default"})):
        assert [(Obstacle.QUEUE_FULL, texts)] == [
            (one.obstacle, one.text) for one in standing.obstacles(task)
        ]
    assert {Obstacle.QUEUE_FULL: 1} == status_of(world).waiting()
    assert status_of(world).stuck() is None


@pytest.mark.parametrize("obstacle", SCENES, ids=str)
def test_r43_each_obstacle_of_a_task_is_named(obstacle: Obstacle) -> None:
    scene, text = SCENES[obstacle]
    world, task = scene()

    first = standing_of(world).obstacles(world.task(task))[0]

    assert (obstacle, text) == (first.obstacle, first.text)
    ends = ENDS_IN.get(obstacle)
    assert first.until == (None if ends is None else world.now() + ends)
    assert obstacle in status_of(world).waiting()


@pytest.mark.parametrize(
    ("daemon", "obstacle"),
    [
        ("not running", Obstacle.DAEMON_NOT_RUNNING),
        ("not answering", Obstacle.DAEMON_NOT_ANSWERING),
    ],
)
def test_r43_a_daemon_that_is_not_there_is_named(
    daemon: Literal["not running", "not answering"], obstacle: Obstacle
) -> None:
    world, task = any_daemon()

    (reason,) = standing_of(world, daemon).obstacles(world.task(task))

    assert (obstacle, True) == (reason.obstacle, reason.text.startswith(f"the daemon is {daemon}"))


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TimeoutError("no answer"), "not answering"),
        (control.ForeignDaemon("a daemon answers its own user alone"), "not ours"),
        (None, "not running"),
    ],
)
def test_a_daemon_without_an_answer_is_distinguished_by_what_failed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    state: str,
) -> None:
    def status(_: Path) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(control, "status", status)

    assert state == Command(tmp_path, capsys, monkeypatch)("status", "--json").json["daemon"]


def test_r43_every_obstacle_has_its_test() -> None:
    elsewhere = {Obstacle.DAEMON_NOT_RUNNING, Obstacle.DAEMON_NOT_ANSWERING}

    assert set(Obstacle) == SCENES.keys() | elsewhere


def test_a_task_that_runs_or_is_over_has_no_obstacle() -> None:
    world = begun()
    task = world.submit()
    world.settle_down()
    assert [] == standing_of(world).obstacles(world.task(task))

    world.gone(task)
    assert [] == standing_of(world).obstacles(world.task(task))


def test_all_obstacles_are_reported_the_nearest_first() -> None:
    world, task = queue_full()
    with world.store.transaction() as now:
        world.store.pause("default", "upgrade", now=now)
    world.executor.answering = False

    texts = [reason.obstacle for reason in standing_of(world).obstacles(world.task(task))]

    assert [Obstacle.QUEUE_PAUSED, Obstacle.EXECUTOR_SILENT, Obstacle.QUEUE_FULL] == texts


def test_a_claim_by_hand_takes_neither_a_slot_nor_a_place_in_its_queue() -> None:
    world = begun(slots=1, concurrency={"default": 1})
    world.submit()
    with world.store.transaction() as now:
        assert world.store.claim_local("default", owner="local:x", output_dir="/o", now=now)
    task = world.submit()
    world.settle_down()

    assert TaskState.RUNNING is world.state(task)


def test_r43_list_why_and_status_name_the_same_obstacle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command(tmp_path, capsys, monkeypatch)
    command("submit", "--queue", "a", "--", "true")
    command("submit", "--queue", "b", "--", "true")
    command("submit", "--queue", "b", "--delay", "1h", "--", "true")
    command("pause", "a")

    listed = {task["id"]: task["obstacle"] for task in command("list", "--json").json}
    why = [command("why", n, "--json").json["obstacles"][0] for n in (1, 2, 3)]

    expected = ["queue_paused", "daemon_not_running", "not_due"]
    assert expected == [listed[n] for n in (1, 2, 3)] == [one["obstacle"] for one in why]
    assert dict.fromkeys(expected, 1) == command("status", "--json").json["waiting"]
    assert "waiting   1 not due, 1 queue paused, 1 daemon not running\n" in command("status").stdout
    assert why[2]["until"] == command("show", 3, "--json").json["run_at"]
    assert "daemon not running; 1st in line" in command("list").stdout


class OnlyByName(dict[str, PausedQueue]):
    """Paused queues that nobody may go through one after another."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("gone through")

    values = items = keys = __iter__  # type: ignore[assignment]


def test_a_queue_is_looked_up_among_the_paused_ones_whatever_their_number() -> None:
    world = begun()
    world.submit(queue="a")
    with world.store.transaction() as now:
        world.store.pause("a", "upgrade", now=now)
    status = status_of(world)
    paused = OnlyByName(status.standing.paused)

    found = replace(status, standing=replace(status.standing, paused=paused))

    assert {Obstacle.QUEUE_PAUSED: 1} == found.waiting()
    assert found.stuck() is None


# What is called stuck -------------------------------------------------------------------


@pytest.mark.parametrize("scene", [queue_full, slots_full, queue_paused, held, not_due])
def test_r65_full_slots_and_parked_tasks_are_not_an_alert(
    scene: Callable[[], Scene], tmp_path: Path
) -> None:
    world, _ = scene()
    world.elapsed += 3600
    found = shown(world, tmp_path)

    assert ("ok", None, []) == tuple(found[key] for key in ("health", "stuck", "degraded"))


def test_r65_a_fault_together_with_full_slots_is_degraded_and_not_stuck(tmp_path: Path) -> None:
    world, _ = slots_full()
    world.executor.answering = False
    world.elapsed += 3600

    found = shown(world, tmp_path)

    assert ("degraded", None) == (found["health"], found["stuck"])


def test_r35_r65_a_broken_spawn_is_an_alert_with_its_reason(tmp_path: Path) -> None:
    """The node is degraded at once, and tasks that waited too long are called stuck."""
    world, _ = node_paused()

    early = shown(world, tmp_path)
    world.run_for(STUCK_AFTER + 1)
    late = shown(world, tmp_path)

    assert ("degraded", None) == (early["health"], early["stuck"])
    assert early["degraded"][0].startswith("this node is paused: no descriptors; one task is tried")
    assert ("stuck", "node_paused") == (late["health"], late["stuck"]["obstacle"])
    assert "no descriptors" in late["stuck"]["text"]
    assert late["stuck"]["waited_s"] >= STUCK_AFTER
    assert late["stuck"]["tasks"] == late["waiting"]["node_paused"]

    world.executor.refusal = None
    world.run_for(60)
    assert ("ok", 0) == (shown(world, tmp_path)["health"], late["states"]["failed"])


def test_r65_a_daemon_that_has_just_begun_is_not_blamed_for_what_waited_before(
    tmp_path: Path,
) -> None:
    world = World()
    world.submit()
    world.elapsed += 3600
    world.fresh_supervisor().figures.began_at = world.at()

    assert "degraded" == shown(world, tmp_path)["health"]
    world.elapsed += STUCK_AFTER
    found = shown(world, tmp_path)
    assert ("stuck", "executor_missing") == (found["health"], found["stuck"]["obstacle"])


def test_r65_status_reports_the_executors_last_message_and_whether_it_is_of_another_version(
    tmp_path: Path,
) -> None:
    world = begun()
    world.executor.last_read_at = world.at()
    world.elapsed += 11

    assert 11.0 == shown(world, tmp_path)["node"]["executor_answer_age_s"]
    world, _ = executor_incompatible()
    found = shown(world, tmp_path)
    assert ("incompatible", "degraded") == (found["executor"], found["health"])
    assert {"pid": 99, "version": 2, "wanted": wire.VERSION} == found["node"][
        "executor_incompatible"
    ]


def test_an_executor_that_exits_is_named_with_its_last_error(tmp_path: Path) -> None:
    world, _ = executor_missing()
    world.executor.last_error = "the journal /x is not a regular file; move it away"

    found = shown(world, tmp_path)

    texts = f"the executor exits: {world.executor.last_error}; nothing starts or ends until it runs"
    assert [texts] == found["degraded"]
    assert world.executor.last_error == found["node"]["executor_error"]


def test_r65_a_node_was_seen_when_its_daemon_last_ticked(tmp_path: Path) -> None:
    world = begun()
    world.settle_down()
    world.run_for(49)
    world.elapsed += 0.5

    now = standing_of(world).now
    assert iso(WallTime(now - 500)) == shown(world, tmp_path)["node"]["seen_at"]


def test_r65_status_reports_the_last_ticks_and_the_ages_of_leases(tmp_path: Path) -> None:
    world = begun()
    world.submit(lease_ttl_ms=600_000)
    world.settle_down()
    world.run_for(7)

    found = shown(world, tmp_path)

    ages = {name: found["node"][f"{name}_age_s"] for name in ("tick", "reap", "claim", "start")}
    assert {"tick": 0, "reap": 0, "claim": 7, "start": 7} == ages
    assert (1, 7, None) == tuple(
        found["leases"][key]
        for key in ("running", "oldest_renewal_age_s", "oldest_heartbeat_age_s")
    )
    world.executor.answering = False
    world.run_for(5)
    assert 5 == shown(world, tmp_path)["node"]["reap_age_s"]  # nothing is reaped meanwhile


def test_no_unit_is_looked_for_while_a_daemon_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit on a filesystem that hangs kept `status` waiting."""
    command = Command(tmp_path, capsys, monkeypatch)
    monkeypatch.setattr(Config, "start_command", lambda _: "advised")
    command("submit", "--", "true")
    assert "advised" in command("why", "1").stdout

    monkeypatch.setattr(control, "report", lambda _: report())

    assert "" == command.client().standing().start_command
