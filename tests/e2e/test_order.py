"""Tasks that wait for others, through the command, with real processes."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.helpers import listed, states, submit_all
from tests.e2e.world import DISPATCHER, Daemon, World
from tests.eventually import eventually
from tests.postgres import Postgres

#: Tasks of a random graph, and how often its daemon is killed. On a server the next daemon watches
#: for 20 s whether the killed one lives.
TASKS, KILLS = 120, {"sqlite": 3, "postgresql": 1}


@pytest.fixture
def on_store(kind: str, request: pytest.FixtureRequest) -> Iterator[World]:
    if kind == "sqlite":
        yield request.getfixturevalue("world")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    world: World = request.getfixturevalue("world")  # later: the server's processes are not its own
    world.configure(store={"url": postgres.url(), "schema": "order_of_tasks"})
    world.cli("migrate")
    yield world
    postgres.sql("DROP SCHEMA IF EXISTS order_of_tasks CASCADE")


def graph(rng: random.Random) -> list[dict[str, Any]]:
    """Return lines of tasks of which each may wait for some before it; one in six fails."""
    lines: list[dict[str, Any]] = []
    for number in range(TASKS):
        line: dict[str, Any] = {"key": f"k{number}", "queue": f"q{number % 3}", "max_attempts": 1}
        line["command"] = ["sh", "-c", f"exit {int(rng.random() < 1 / 6)}"]
        before = rng.sample(range(max(0, number - 15), number), k=min(number, rng.randint(0, 3)))
        for option in ("after", "after_any"):
            line[option] = [
                f"k{one}" for one in before if (one % 4 == 0) == (option == "after_any")
            ]
        if line["after"] and rng.random() < 2 / 3:
            line["on_parent_failure"] = rng.choice(["cancel", "run", "hold"])
        lines.append({name: value for name, value in line.items() if value != []})
    return lines


def expected(lines: list[dict[str, Any]]) -> dict[str, str]:
    """Return the last state of each task, from the lines alone."""
    found: dict[str, str] = {}
    finished = {"succeeded", "failed", "cancelled"}
    for line in lines:
        after, after_any = line.get("after", []), line.get("after_any", [])
        rule = line.get("on_parent_failure", "hold")
        own = "failed" if line["command"][-1] == "exit 1" else "succeeded"
        failed = any(found[one] in {"failed", "cancelled"} for one in after)
        if failed and rule != "run":
            own = "cancelled" if rule == "cancel" else "held"
        elif any(found[one] not in finished for one in (*after, *after_any)):
            own = "waiting"
        found[line["key"]] = own
    return found


@pytest.mark.parametrize("kind", KILLS)
def test_r43_r91_a_random_graph_ends_as_its_lines_say_though_its_daemon_is_killed(
    on_store: World, kind: str
) -> None:
    world, seed = on_store, random.randrange(10**6)
    rng = random.Random(seed)
    lines = graph(rng)
    ids = dict(zip([line["key"] for line in lines], submit_all(world, *lines), strict=True))
    for _ in range(KILLS[kind]):
        with world.daemon(alone=False) as daemon:
            _expect_settled(daemon, rng.randint(1, TASKS // 10))
            daemon.kill()

    with world.daemon():
        eventually(lambda: _assert_nothing_goes_on(world))

    tasks = listed(world)
    wanted = expected(lines)
    found = {key: tasks[task_id]["state"] for key, task_id in ids.items()}
    assert wanted == found, f"seed {seed}"
    for line in lines:
        shown = world.show(ids[line["key"]])
        for run in shown["runs"]:
            for parent in (*line.get("after", []), *line.get("after_any", [])):
                assert tasks[ids[parent]]["finished_at"] <= run["claimed_at"], f"seed {seed}"


def _expect_settled(daemon: Daemon, runs: int) -> None:
    def probe() -> None:
        assert len(daemon.events("run.settled")) >= runs, daemon.output()

    eventually(probe)


def _assert_nothing_goes_on(world: World) -> None:
    tasks = listed(world)
    assert {"ready", "scheduled", "running"}.isdisjoint(one["state"] for one in tasks.values())
    blocked = [one for one in tasks.values() if one["state"] == "waiting"]
    for one in blocked:
        parents = world.show(one["id"])["parents"]
        open_ones = [parent for parent in parents if parent["is"] == "open"]
        assert open_ones
        assert all(parent["state"] in {"held", "waiting"} for parent in open_ones)


def test_a_run_reads_its_parents_from_a_variable_or_from_a_file(world: World) -> None:
    script = f'{DISPATCHER} complete --result "$(cat)"'
    small = world.submit("sh", "-c", script, payload='{"n": 1}')
    many = [world.submit("sh", "-c", script, payload=json.dumps("x" * 9000)) for _ in range(5)]
    few = world.submit("sh", "-c", 'printf %s "$DISPATCHER_PARENTS"', after=str(small))
    text = 'echo "${DISPATCHER_PARENTS-none}"; cat "$DISPATCHER_PARENTS_FILE"'
    long = world.submit("sh", "-c", text, after=",".join(map(str, many)))
    with world.daemon():
        world.cli("wait", few, long)

    one = {"id": small, "key": None, "state": "succeeded", "outcome": "succeeded"}
    assert [{**one, "result": {"n": 1}}] == json.loads(world.cli("logs", few).stdout)
    first, rest = world.cli("logs", long).stdout.split("\n", 1)
    assert "none" == first
    assert [["x" * 9000] * 5] == [[parent["result"] for parent in json.loads(rest)]]


def test_operators_see_who_waits_for_whom(world: World) -> None:
    first = world.submit("false", key="first", max_attempts=1)
    second, third = world.submit("true", after="first"), world.submit("true", after_any="2")

    assert "waiting" == world.show(second)["state"]
    assert [{"id": first, "state": "ready", "needs": "success", "is": "open"}] == world.show(
        second
    )["parents"]
    assert [second] == [one["id"] for one in world.show(first)["children"]]
    why = world.cli("why", third).stdout
    assert f"it waits for task {second} (waiting: it has parents) to end" in why
    tree = world.cli("list", "--tree").stdout.splitlines()
    assert [f"{first} ready  false", f"  {second} waiting  true"] == tree[:2]
    assert tree[2] == f"    {third} waiting  true"

    world.cli("release", "--queue", "default")
    assert ["ready", "waiting", "waiting"] == states(world), "a filter takes none that waits"
    with world.daemon("--drain") as daemon:
        daemon.wait()

    assert ["failed", "held", "waiting"] == states(world)
    assert (
        f"dispatcher retry {first} lets it wait for that again" in world.cli("why", second).stdout
    )
    world.cli("retry", first)
    assert ["ready", "waiting", "waiting"] == states(world)
    world.cli("hold", second)
    world.cli("cancel", first)
    with world.daemon("--drain") as daemon:
        daemon.wait()
    still = world.cli("release", second).stdout
    assert f"{second} held: its parent {first} was cancelled\n" == still, "the hold alone is over"
    world.cli("release", second)
    assert ["cancelled", "ready", "waiting"] == states(world)
    world.cli("cancel", third)
    assert "it waits for" not in world.cli("why", third).stdout


def test_a_local_claim_lets_the_next_one_be_claimed_without_a_daemon(world: World) -> None:
    first = world.submit("true")
    second = world.submit("true", after=str(first))

    claim = world.cli("claim", "--json").json
    world.cli("complete", "--task", first, "--lock", claim["lock"])

    assert second == world.cli("claim", "--json").json["task_id"]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([{"key": "a", "after": "a"}], "line 1: after: it would wait for itself"),
        ([{"key": "a", "after": "b"}, {"key": "b", "after": "a"}], "no task of queue default has"),
        ([{"after": 7}], "task 1: after: there is no task 7"),
        ([{"after": []}, {"on_parent_failure": "run"}], "on_parent_failure: it has no parents"),
        ([{"after": 1.5}], "after"),
    ],
)
def test_a_submit_with_wrong_parents_is_refused_whole(
    world: World, lines: list[dict[str, Any]], wrong: str
) -> None:
    text = "\n".join(json.dumps({"command": ["true"], **line}) for line in lines)

    refused = world.cli("submit", "--from", "-", stdin=text, exits=2)

    assert wrong in refused.stderr
    assert [] == states(world)
