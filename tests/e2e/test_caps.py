"""All limits at once, with real workers: of three daemons on a server; and a worker closes one."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.helpers import submit_all
from tests.e2e.world import World
from tests.eventually import eventually
from tests.postgres import Postgres

SCHEMA = "caps"

#: Tasks on a node, of the queue `rare` on all nodes, and of the limit `provider` at once.
SLOTS, RARE, HELD = 3, 2, 5

#: Starts of `provider` in a window of so many milliseconds.
STARTS, WINDOW = 15, 1_000

TASKS = 72

#: A worker writes when it begins and ends, by the clock of the host, in nanoseconds.
WORKER = (
    'b=$(date +%s%N); sleep 0.05; echo "$1 $2 $3 $DISPATCHER_STATE_DIR $b $(date +%s%N)" >> "$0"'
)


class Stay(NamedTuple):
    """What a worker wrote."""

    queue: str
    units: int
    key: str
    node: str
    began: int
    ended: int


@pytest.fixture
def worlds(postgres: Postgres, tmp_path: Path, bytecode: Path) -> Iterator[list[World]]:
    with ExitStack() as stack:
        made = []
        for number in range(3):
            (own := tmp_path / f"host-{number}").mkdir()
            made.append(stack.enter_context(closing(World(own, bytecode))))
            made[-1].configure(
                store={"url": postgres.url(), "schema": SCHEMA},
                node={"slots": SLOTS},
                **{
                    "queues.rare": {"global_concurrency": RARE},
                    "limits.provider": {"concurrency": HELD, "rate": f"{STARTS}/{WINDOW}ms"},
                },
            )
        yield made
    postgres.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def most_at_once(stays: Sequence[tuple[int, int, int]]) -> int:
    """Return how much there is at the fullest instant, of what begins, ends and counts so much."""
    return max(sum(many for b, e, many in stays if b <= at < e) for at, *_ in stays)


def test_r44_the_matrix_of_caps_is_never_exceeded_by_the_runs_own_stamps(
    worlds: list[World], postgres: Postgres, tmp_path: Path
) -> None:
    """Node, queue, limit, rate and key, with three daemons; and while the limit is closed, none."""
    file = tmp_path / "stays"
    lines = []
    for number in range(TASKS):
        queue, units = ("rare", "common")[number % 2], 2 if number % 9 == 4 else 1
        key = f"k{number % 7}"
        words = ["sh", "-c", WORKER, str(file), queue, str(units), key]
        limits = {"provider": units}
        lines.append({"command": words, "queue": queue, "limit": limits, "concurrency_key": key})
    first = worlds[0]
    with ExitStack() as stack:
        for world in worlds:
            stack.enter_context(world.daemon(alone=False))
        submit_all(first, *lines)
        eventually(lambda: expect_lines(file, TASKS // 4))
        first.cli("limit", "close", "provider", "--reason", "looked at")
        begun = claims(postgres)
        eventually(lambda: expect_ended(postgres))
        assert begun == claims(postgres), "a closed limit lets nothing through"
        first.cli("limit", "open", "provider")
        eventually(lambda: expect_lines(file, TASKS), patience=60)

    words = [line.split() for line in file.read_text().splitlines()]
    stays = [Stay(q, int(u), k, n, int(b), int(e)) for q, u, k, n, b, e in words]
    assert TASKS == len(stays)
    assert 3 == len({one.node for one in stays}), "each node had some"
    for node in {one.node for one in stays}:
        assert SLOTS >= most_at_once([(s.began, s.ended, 1) for s in stays if s.node == node])
    assert RARE >= most_at_once([(s.began, s.ended, 1) for s in stays if s.queue == "rare"])
    assert HELD >= most_at_once([(s.began, s.ended, s.units) for s in stays])
    for key in {(one.queue, one.key) for one in stays}:
        mine = sorted((s.began, s.ended) for s in stays if (s.queue, s.key) == key)
        assert all(before[1] <= after[0] for before, after in pairwise(mine)), key
    rows = postgres.sql(
        "SELECT claimed_at, CAST(takes AS json) ->> 'provider'"
        f" FROM {SCHEMA}.runs JOIN {SCHEMA}.tasks ON tasks.id = task_id"
    )
    starts = [(at, int(units)) for at, units in rows]
    assert STARTS >= max(
        sum(units for at, units in starts if last - WINDOW < at <= last) for last, _ in starts
    )


def claims(postgres: Postgres) -> int:
    ((found,),) = postgres.sql(f"SELECT count(*) FROM {SCHEMA}.runs")
    return int(found)


def expect_ended(postgres: Postgres) -> None:
    assert [(0,)] == postgres.sql(f"SELECT count(*) FROM {SCHEMA}.runs WHERE outcome IS NULL")


def expect_lines(file: Path, many: int) -> None:
    assert file.exists()
    assert many <= len(file.read_text().splitlines())


#: Defers once, and closes its limit for as long.
DEFERRING = """\
if [ "$DISPATCHER_FENCE" = 1 ] && mkdir "$0" 2>/dev/null; then
    exec "$1" -m worker_stub defer --delay 1 --close provider --reason "429"
fi
"""


def test_a_worker_that_closes_its_limit_costs_one_run_whatever_waits_behind_it(
    world: World,
) -> None:
    world.configure(node={"slots": 1}, **{"limits.provider": {"concurrency": 1}})
    words = ["sh", "-c", DEFERRING, str(world.directory / "refused"), sys.executable]
    with world.daemon() as daemon:
        submit_all(world, *[{"command": words, "limit": ["provider"], "liveness": "worker"}] * 6)

        assert "provider" == daemon.expect("limit.closed")["limit"], world.cli("logs", 1).stdout
        world.cli("wait", *range(1, 7))

    found = [world.show(task) for task in range(1, 7)]
    assert 1 == sum(one["deferrals"] for one in found)
    assert 7 == sum(len(one["runs"]) for one in found)
    events = world.cli("events", "--json", "-n", 99).json
    closed, opened = (one for one in events if one["subject"] == "provider")
    assert ("limit_closed", "429", "worker") == (
        closed["event"],
        closed["reason"],
        closed["who"]["kind"],
    )
    assert ("limit_opened", "its time is over") == (opened["event"], opened["reason"])
