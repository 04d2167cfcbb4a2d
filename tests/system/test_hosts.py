"""Hosts in namespaces on one switch: rounds of faults, in which no task ever has two live trees."""

import random
import shutil
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.hosts.faults import FAULTS, play
from tests.system.hosts.lab import WAITS, Lab, Node

#: Rounds of each of the labs, which work side by side.
ROUNDS = 26
LABS = (1, 2)

#: A fault of another kind: what ran meanwhile is forgotten.
FAILOVER = "lagging replica promoted"

#: Tasks that run while a fault lasts, and those that end at once.
LONG, SHORT = 5, 4


@pytest.fixture
def lab(privileged: None, tmp_path: Path, bytecode: Path, server_files: Path) -> Iterator[Lab]:
    if shutil.which("ip") is None:
        pytest.skip("there is no ip (Debian: apt install iproute2)")
    with Lab(tmp_path, bytecode, server_files) as lab:
        yield lab


def shuffled(rng: random.Random) -> Iterator[str]:
    """Yield each fault once, again and again, in a new order each time."""
    while True:
        yield from rng.sample([*FAULTS, FAILOVER], len(FAULTS) + 1)


def play_round(lab: Lab, name: str, rng: random.Random) -> str:
    """Let a fault happen while tasks run; return what it did, in a line."""
    if name == FAILOVER:
        return play_failover(lab)
    fault = FAULTS[name]
    lab.begin_round()
    tasks = [lab.submit(WAITS) for _ in range(LONG)]
    for task in tasks:
        lab.until_begun(task, 1)
    node = lab.node_of(rng.choice(tasks))
    here = [task for task in tasks if lab.node_of(task) is node]
    others = [task for task in tasks if task not in here]
    brief = name != "plug pulled" and fault.silences and rng.random() < 0.25
    tasks += [lab.submit() for _ in range(SHORT)]

    def until_taken() -> None:
        for task in here:
            lab.until_begun(task, 2)

    play(lab, name, node, brief=brief, until_taken=until_taken)
    lab.let_end()
    lab.until_finished(*tasks)

    judge(lab, tasks, [] if fault.costs else others)
    took = [ahead for task in here for ahead in delays(lab, task)]
    how = "for a moment" if brief else f"{len(here)} tasks, taken over after {took} ms"
    return f"{name}, node {node.number}: {how}"


def play_failover(lab: Lab) -> str:
    """Let a replica take over that knows one task's run, and of the other only that it is ready."""
    lab.begin_round()
    known = lab.submit(WAITS)
    lab.until_begun(known, 1)
    lab.operator.cli("pause", "later")
    tasks = [lab.submit(WAITS, queue="later") for _ in range(LONG - 1)]

    def run_them() -> None:
        lab.operator.cli("resume", "later")
        for task in tasks:
            lab.until_begun(task, 1)

    lab.fail_over(forgotten=run_them)
    eventually(lambda: lab.operator.cli("resume", "later"))
    for task in tasks:
        lab.until_begun(task, 2)
    lab.let_end()
    lab.until_finished(known, *tasks)

    judge(lab, [known, *tasks], [known])
    return f"{FAILOVER}: {len(tasks)} runs forgotten, fences now {lab.begun(tasks[0])}"


def judge(lab: Lab, tasks: list[int], undisturbed: list[int]) -> None:
    """Fail for two live trees of a task, for a lost or doubled success, for a disturbed node."""
    lab.refuse_twins()
    for task in tasks:
        runs = lab.runs(task)
        begun = lab.begun(task)
        # A start that a frozen executor reads too late begins nothing.
        fair = {True: "orphaned", False: ("orphaned", "released")}
        assert all(run["outcome"] in fair[run["fence"] in begun] for run in runs[:-1]), runs
        assert "succeeded" == runs[-1]["outcome"], runs
        assert sorted(begun) == begun
    for task in undisturbed:
        assert 1 == len(lab.runs(task)), lab.runs(task)
    for node in lab.nodes:
        assert node.daemon is not None
        assert node.daemon.process.poll() is None, node.daemon.output()
        assert [] == node.daemon.events("store.refused")


def delays(lab: Lab, task: int) -> list[int]:
    """Return how long after its takeover was allowed each next claim was made, in ms."""
    runs = lab.runs(task)
    return [
        after["claimed_at"] - before["takeover_at"]
        for before, after in pairwise(runs)
        # Otherwise its own node reported the end.
        if before["takeover_at"] is not None and after["claimed_at"] >= before["takeover_at"]
    ]


@pytest.mark.timeout(0)
def test_a_host_that_stood_still_until_its_task_was_taken_over_ends_its_worker(lab: Lab) -> None:
    """Nothing could end it before it goes on: its fence tells the world that it does not count."""
    lab.begin_round()
    task = lab.submit_stamping()
    lab.until_begun(task, 1)
    node = lab.node_of(task)
    assert node.daemon is not None

    with node.stopped():
        lab.until_begun(task, 2)
        before = lab.stamps(task, fence=1)
    node.daemon.expect("claim.lost", task_id=task)
    eventually(lambda: expect_no_worker(node))
    late = lab.stamps(task, fence=1) - before
    lab.let_end()
    lab.until_finished(task)

    print(f"the worker went on for {late} stamps of 10 ms")  # noqa: T201
    assert ["orphaned", "succeeded"] == [run["outcome"] for run in lab.runs(task)]
    assert [1, 2] == lab.begun(task)


def expect_no_worker(node: Node) -> None:
    assert [] == [one for one in node.namespace.processes() if "DISPATCHER_FENCE" in one.environ()]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", LABS)
def test_no_fault_of_a_host_or_the_server_gives_a_task_two_live_trees(lab: Lab, seed: int) -> None:
    rng = random.Random(seed)
    for number, name in enumerate(islice(shuffled(rng), ROUNDS), start=1):
        print(f"round {number}: {play_round(lab, name, rng)}", flush=True)  # noqa: T201
