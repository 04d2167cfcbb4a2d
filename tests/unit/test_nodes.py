"""Nodes as their rows show them, and why a task waits where there are several."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.calendar import Calendar
from dispatcher.limit_views import LimitView
from dispatcher.metrics import exposition
from dispatcher.model import Leases, Node, TaskState
from dispatcher.named_limits import Rule
from dispatcher.nodes import NodeState, NodeView, Requiring, differing, named, names, viewed
from dispatcher.obstacles import Obstacle, Standing
from dispatcher.overview import STUCK_AFTER, Status
from dispatcher.times import StoreTime
from tests.reports import report

NOW = StoreTime(1_000_000)

HERE = Node(
    id="0a1b2c3d-0000-4000-8000-000000000001",
    boot_id="b",
    pid_namespace="p",
    hostname="web-1",
    slots=2,
    seen_at=NOW,
    seen_interval_ms=5_000,
    session="one",
)
THERE = replace(HERE, id="0a1b0000-0000-4000-8000-000000000002", hostname="web-2", session="two")


def view(node: Node = THERE, **facts: Any) -> NodeView:
    return NodeView(node=node, **{"name": node.hostname, "state": NodeState.UP, **facts})


def standing(*others: NodeView, node: Node = HERE, **facts: Any) -> Standing:
    """Return the standing of a node whose daemon runs, with its slots free."""
    given = {"daemon": "running", "report": report(busy=0), "paused": {}, **facts}
    own = view(node, is_here=True)
    return Standing(calendar=Calendar(NOW, 0), node=node, nodes=[own, *others], **given)


@pytest.mark.parametrize(
    ("change", "is_shared", "state"),
    [
        ({}, True, NodeState.UP),
        ({"draining": "new kernel"}, True, NodeState.DRAINING),
        ({"seen_at": NOW - 14_999}, True, NodeState.UP),
        ({"seen_at": NOW - 15_000}, True, NodeState.SILENT),
        ({"seen_at": NOW - 15_000, "draining": "new kernel"}, True, NodeState.SILENT),
        ({"session": ""}, True, NodeState.STOPPED),
        ({"session": ""}, False, NodeState.UP),
        ({"seen_at": NOW + 10**9}, True, NodeState.UP),
    ],
)
def test_the_state_of_a_node_follows_from_its_row(
    change: dict[str, Any], is_shared: bool, state: NodeState
) -> None:
    (found,) = viewed(
        [replace(THERE, **change)],
        {THERE.id: 3},
        here=HERE.id,
        is_up=True,
        is_shared=is_shared,
        now=NOW,
    )

    assert (state, 3, False) == (found.state, found.running, found.is_here)
    assert found.takes_work is (state is NodeState.UP)


def test_a_node_whose_daemon_answers_here_is_up_however_old_its_row_is() -> None:
    old = replace(HERE, seen_at=StoreTime(1), session="")
    for is_up, state in ((True, NodeState.UP), (False, NodeState.SILENT)):
        (found,) = viewed([old], {}, here=HERE.id, is_up=is_up, is_shared=False, now=NOW)
        assert (state, 0, True) == (found.state, found.running, found.is_here)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web-1", [HERE.id]),
        (THERE.id, [THERE.id]),
        ("0a1b2", [HERE.id]),
        ("0a1b", [HERE.id, THERE.id]),
        ("web", []),
    ],
)
def test_a_node_is_named_by_its_host_or_the_beginning_of_its_id(
    name: str, found: Sequence[str]
) -> None:
    assert [*found] == [one.node.id for one in named([view(HERE), view()], name)]


def obstacles(found: Standing, **requires: str) -> list[tuple[Obstacle, str]]:
    return [(one.obstacle, one.text) for one in found.queue_obstacles("q", requires)]


TURN = [(Obstacle.TURN_COMES, "nothing keeps it from running: its turn comes")]
NOT_RUNNING = (Obstacle.DAEMON_NOT_RUNNING, "the daemon is not running: dispatcher run")
DOWN = {"daemon": "not running", "report": None}
FULL = {"report": report(busy=2)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (standing(view()), TURN),
        (standing(view(), **DOWN), TURN),
        (standing(view(), **FULL), TURN),
        (standing(view(state=NodeState.DRAINING), **DOWN), [NOT_RUNNING]),
        (standing(view(state=NodeState.SILENT), **DOWN), [NOT_RUNNING]),
        (standing(**DOWN), [NOT_RUNNING]),
        (
            standing(view(running=2), **DOWN),
            [
                (
                    Obstacle.SLOTS_FULL,
                    "all slots are busy on the nodes that may run it: web-2 2 of 2",
                ),
                NOT_RUNNING,
            ],
        ),
        (
            standing(node=replace(HERE, draining="new kernel")),
            [
                (
                    Obstacle.NODE_DRAINING,
                    "this node takes no more work: new kernel; dispatcher node resume web-1",
                )
            ],
        ),
        (standing(view(), node=replace(HERE, draining="new kernel")), TURN),
    ],
)
def test_a_task_waits_only_if_no_node_has_room_for_it(
    found: Standing, expected: list[tuple[Obstacle, str]]
) -> None:
    assert expected == obstacles(found)


A100 = replace(THERE, labels={"gpu": "a100"})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (standing(view(A100)), TURN),
        (
            standing(view(A100, running=2)),
            [
                (
                    Obstacle.SLOTS_FULL,
                    "all slots are busy on the nodes that may run it: web-2 2 of 2",
                )
            ],
        ),
        (
            standing(view(replace(THERE, labels={"gpu": "v100"}))),
            [
                (
                    Obstacle.LABELS_MISSING,
                    (
                        "it requires gpu=a100, and no node that takes work has that: web-1 has no"
                        " gpu; web-2 has gpu=v100"
                    ),
                )
            ],
        ),
        (
            standing(view(A100, state=NodeState.SILENT)),
            [
                (
                    Obstacle.LABELS_MISSING,
                    (
                        "it requires gpu=a100, and no node that takes work has that: web-1 has no"
                        " gpu; web-2 has it, but is silent"
                    ),
                )
            ],
        ),
        (standing(node=replace(HERE, labels={"gpu": "a100"})), TURN),
    ],
)
def test_a_task_that_requires_labels_is_told_which_nodes_lack_them(
    found: Standing, expected: list[tuple[Obstacle, str]]
) -> None:
    assert expected == obstacles(found, gpu="a100")


def test_a_task_that_requires_several_labels_is_told_each_that_is_missing() -> None:
    node = replace(HERE, labels={"gpu": "v100", "disk": "ssd"})

    ((_, text),) = obstacles(standing(node=node), gpu="a100", zone="b", disk="ssd")

    assert "it requires disk=ssd gpu=a100 zone=b, and" in text
    assert text.endswith("web-1 has gpu=v100 and has no zone")


def test_a_queue_that_is_full_on_all_nodes_is_named() -> None:
    full = LimitView(name="queue:q", rule=Rule(concurrency=3), running=3)
    ((obstacle, text),) = obstacles(standing(view(), limits={"queue:q": full}))

    assert Obstacle.QUEUE_FULL is obstacle
    assert "has 3 running on all nodes, as many as [queues.q] global_concurrency allows" in text


def status(found: Standing, *requiring: Requiring, ready: int = 3) -> Status:
    long_ago = StoreTime(NOW - round(STUCK_AFTER * 4000))
    since = {"q": long_ago} if ready > sum(one.tasks for one in requiring) else {}
    return Status(
        standing=found,
        counts={"q": {TaskState.READY: ready}},
        ready_since=since,
        requiring=requiring,
        leases=Leases(0, None, None, None),
    )


WANT_A100 = Requiring(
    queue="q", requires={"gpu": "a100"}, tasks=2, since=StoreTime(NOW - round(STUCK_AFTER * 5000))
)


def test_tasks_that_no_node_may_run_are_counted_by_themselves_and_never_stuck() -> None:
    report_ = report(busy=0, uptime_s=STUCK_AFTER * 9)
    nobody = standing(report=report_)
    able = standing(view(A100), report=report_)

    mixed = status(nobody, WANT_A100)
    assert {Obstacle.LABELS_MISSING: 2, Obstacle.TURN_COMES: 1} == mixed.waiting()
    stuck = mixed.stuck()
    assert stuck is not None
    assert (1, STUCK_AFTER * 4) == (stuck.tasks, stuck.waited)
    assert status(nobody, WANT_A100, ready=2).stuck() is None

    stuck = status(able, WANT_A100, ready=2).stuck()
    assert stuck is not None
    assert (2, STUCK_AFTER * 5) == (stuck.tasks, stuck.waited)


def test_metrics_count_nodes_by_state_and_name_one_that_drains() -> None:
    node = replace(HERE, draining="new kernel")
    silent = view(state=NodeState.SILENT)

    text = exposition(status(standing(view(), silent, node=node)), {})

    for line in (
        'dispatcher_nodes{state="up"} 2.0',
        'dispatcher_nodes{state="draining"} 0.0',
        'dispatcher_nodes{state="silent"} 1.0',
        "dispatcher_node_draining 1.0",
        'dispatcher_waiting_tasks{obstacle="node_draining"} 0.0',
    ):
        assert f"\n{line}\n" in text


def test_nodes_of_one_hostname_have_names_of_their_own() -> None:
    other = replace(THERE, hostname=HERE.hostname)
    called = names([HERE, other])

    assert {HERE.id: "web-1/0a1b2c3d", other.id: "web-1/0a1b0000"} == called
    views = [view(one, name=called[one.id]) for one in (HERE, other)]
    assert [views[1]] == named(views, "web-1/0a1b0000")
    assert views == named(views, "web-1")
    assert {HERE.id: "web-1", THERE.id: "web-2"} == names([HERE, THERE])


def obeying(hostname: str, obeys: dict[str, str] | None, **facts: Any) -> NodeView:
    return view(replace(THERE, hostname=hostname, obeys=obeys), **facts)


def test_a_limit_differs_if_a_file_of_a_node_that_works_says_another_thing() -> None:
    four = {"queue:night": "4 at once", "api": "10/1m"}
    views = [
        obeying("web-1", four),
        obeying("web-2", {**four, "queue:night": "8 at once"}, state=NodeState.DRAINING),
        obeying("web-3", {"api": "10/1m"}),
        obeying("older", None),
        obeying("gone", {"api": "1/1h"}, state=NodeState.SILENT),
        obeying("stopped", {"api": "1/1h"}, state=NodeState.STOPPED),
    ]

    text = "4 at once on web-1; 8 at once on web-2; none on web-3"
    assert {"queue:night": text} == differing(views)
    assert {} == differing(views[:1])
