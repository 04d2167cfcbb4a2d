"""A real SIGKILL at each kind of call that leaves a process; the next start makes it right.

Normally after the call with which each collaborator changes the most for others; with FUZZ=1
before, within and after each kind of call, at all of which `test_every_call` plays a death.
"""

import os

import pytest

from tests.crash import sites, workers
from tests.crash.judges import judge, judge_stage
from tests.crash.mortal import AFTER, BEFORE, WITHIN
from tests.crash.outside import Outside, was_killed
from tests.crash.plays import CASTS, Played, Work

FUZZ = "FUZZ" in os.environ

MOMENTS = (BEFORE, WITHIN, AFTER) if FUZZ else (AFTER,)

#: For each collaborator of daemon and executor, what it leaves to others most.
DECISIVE = {
    *("store.commit", "client.flush", "connection.send", "launcher.ensure_running"),
    *("kernel.signal", "spawner.start", "outputs.open", "journal.flush", "server.flush"),
}

#: The number of the call to die at, by site; the first by default.
NUMBERS = {
    "client.connect": 0,  # whichever first finds somebody
    "store.begin": 4,
    "store.commit": 4,
    "store.move_due": 4,
    "client.receive": 4,
    "client.send": 3,
    "client.flush": 2,
    "server.send": 5,
    "server.flush": 3,
    "journal.append": 6,
    "journal.flush": 4,
}

#: Without a commit that got no answer, an ending decided here, and a worker that sends requests.
NOT_IN_WORK = {"client.reconnect", "store.begin_endings", "store.heartbeat", "store.declare"}


def points(found: dict[str, bool], *without: str) -> list[str]:
    """Return where to die; `found` maps sites to whether it can be done by half."""
    return [
        f"{site}:{moment}:{NUMBERS.get(site, 1)}"
        for site, has_half in found.items()
        for moment in MOMENTS
        if site not in without and (FUZZ or site in DECISIVE) and (moment != WITHIN or has_half)
    ]


@pytest.mark.parametrize("point", points(sites.of_daemon(), *NOT_IN_WORK))
def test_a_daemon_killed_at_a_call_loses_and_doubles_nothing(point: str, outside: Outside) -> None:
    stage, play = outside.stage, Work()
    play.begin(stage)

    with outside.mortal_daemon(point) as daemon:
        outside.wait_for(lambda: was_killed(daemon), lambda: play.operate(stage))
    outside.drain(lambda: play.operate(stage))

    judge(Played(stage, play.parts, CASTS["daemon"]))


@pytest.mark.parametrize("point", points(sites.of_executor()))
def test_an_executor_killed_at_a_call_loses_and_doubles_nothing(
    point: str, outside: Outside
) -> None:
    stage, play = outside.stage, Work()
    play.begin(stage)

    with outside.mortal_executor(point) as executor:
        outside.drain(lambda: play.operate(stage))
        assert was_killed(executor)

    judge(Played(stage, play.parts, CASTS["executor"]))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_daemon_killed_while_it_ends_a_run_ends_it_again(moment: str, outside: Outside) -> None:
    if moment == WITHIN:
        pytest.skip("a statement is not done by half")
    gate = outside.stage.directory / "gate"
    task = outside.stage.submit(workers.STAYS_UNTIL_ALLOWED, str(gate))
    with outside.mortal_daemon(f"store.begin_endings:{moment}:1") as daemon:
        outside.wait_for(lambda: outside.stage.diary(task).started())
        daemon.terminate()
        outside.wait_for(lambda: was_killed(daemon))
    gate.touch()

    outside.stage.cancel(task)
    outside.drain()

    judge_stage(outside.stage)
    assert [1] == outside.stage.diary(task).started()


def test_each_collaborator_has_one_decisive_call() -> None:
    every = [site.partition(".")[0] for site in (*sites.of_daemon(), *sites.of_executor())]

    assert sorted(set(every)) == sorted(site.partition(".")[0] for site in DECISIVE)
    assert {*sites.of_daemon(), *sites.of_executor()} >= DECISIVE
