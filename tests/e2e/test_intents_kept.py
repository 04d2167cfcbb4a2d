"""An operator's intent is kept while a run is ending, or while no daemon is there."""

import re

import psutil
import pytest

from tests.e2e.helpers import expect_file, is_alive, python, shell
from tests.e2e.world import Daemon, World

#: It ignores SIGTERM; a while after it got one, it exits.
LINGERS = """
    trap '' TERM
    echo $$ >> pids
    while [ ! -e go ]; do sleep 0.05; done
"""

#: Declares success, again while the store is not available, and cleans up until it may go.
CLEANS_UP = python("""
    import json, os, socket, time
    request = {"op": "succeed", "task_id": int(os.environ["DISPATCHER_TASK_ID"]),
             "lock": os.environ["DISPATCHER_CLAIM_LOCK"]}
    answer = {"error": "store_unavailable"}
    while answer.get("error") == "store_unavailable":
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ["DISPATCHER_SOCKET"])
            connection.sendall(json.dumps(request).encode() + b"\\n")
            answer = json.loads(connection.makefile().readline())
    with open("declared", "w") as file:
        file.write(f"{answer['ok']}\\n")
    while not os.path.exists("go"):
        time.sleep(0.05)
    with open("cleaned", "w") as file:
        file.write("up\\n")
""")


def timing_out(world: World, daemon: Daemon, **options: int) -> int:
    """Return a task whose run is being ended for its run time-out, and takes no hint."""
    task = world.submit(*shell(LINGERS), run_timeout="300ms", kill_grace="1h", **options)
    daemon.expect("run.ending", task_id=task, ending="timed_out")
    return task


@pytest.mark.parametrize(("verb", "state"), [("cancel", "cancelled"), ("hold", "held")])
def test_r77_a_task_whose_run_is_being_ended_goes_where_an_operator_sent_it(
    world: World, verb: str, state: str
) -> None:
    with world.daemon() as daemon:
        task = timing_out(world, daemon)

        result = world.cli(verb, task).stdout
        why = world.cli("why", task).stdout
        (world.directory / "go").touch()

        shown = world.until(task, state)
        assert f"{task} is being ended as timed_out; then it is {state}\n" == result
        assert (
            f"then SIGKILL; then the task is {state}: {state} by an operator (dispatcher {verb})"
            in why
        )
        assert "  it ends as timed_out; its processes have the kill grace of " in why
        assert re.search(r"^  of it still live: .*\bsh \(\d+\)", why, re.MULTILINE)
        daemon.expect("run.settled", task_id=task, outcome="timed_out", state=state)
        assert 0 == len(daemon.events("task.claimed")[1:])
    (run,) = shown["runs"]
    assert ("timed_out", 1, f"{state} by an operator") == (
        run["outcome"],
        shown["attempts_used"],
        shown["reason"],
    )


def test_a_daemon_that_starts_meanwhile_keeps_the_intent_too(world: World) -> None:
    with world.daemon(alone=False) as daemon:
        task = timing_out(world, daemon)
        daemon.kill()

    result = world.cli("cancel", task)
    assert f"{task} is being ended as timed_out; then it is cancelled\n" == result.stdout
    assert (
        "dispatcher: the daemon is not running: dispatcher run --detach; a run that is not being"
        " ended yet goes on until it is back\n"
    ) == result.stderr

    with world.daemon():
        (world.directory / "go").touch()
        (run,) = world.until(task, "cancelled")["runs"]
    assert "timed_out" == run["outcome"]


def test_a_cancel_of_a_run_that_goes_on_is_kept_for_the_next_daemon(world: World) -> None:
    with world.daemon(alone=False) as daemon:
        task = world.submit("sleep", "1000")
        pid = daemon.expect("run.started", task_id=task)["pid"]
        daemon.kill()
    worker = psutil.Process(pid)

    result = world.cli("cancel", task, "--json")
    assert is_alive(worker)

    with world.daemon():
        world.until(task, "cancelled")
    assert [{"id": task, "was": "running", "done": True}] == [
        {name: one[name] for name in ("id", "was", "done")} for one in result.json
    ]
    assert "the daemon is not running" in result.stderr
    assert not is_alive(worker)


def test_a_refused_intent_leaves_a_worker_that_has_succeeded_alone(world: World) -> None:
    world.configure(leases={"exit_grace": "1h"})
    with world.daemon() as daemon:
        task = world.submit(*CLEANS_UP)
        assert ["True"] == expect_file(world, "declared")

        result = [world.cli(verb, task, exits=1).stderr for verb in ("cancel", "hold", "retry")]
        why = world.cli("why", task).stdout
        follower = world.submit("true")
        world.until(follower, "succeeded")  # the daemon has turned since
        (world.directory / "go").touch()
        shown = world.until(task, "succeeded")

        assert [] == daemon.events("run.ending")
    (run,) = shown["runs"]
    assert ["up"] == expect_file(world, "cleaned")
    assert ("succeeded", 0, None) == (run["outcome"], run["exit_code"], shown["intent"])
    assert [
        f"dispatcher: task {task} has declared success; it cannot be cancelled\n",
        f"dispatcher: task {task} has declared success; it cannot be held\n",
    ] == result[:2]
    assert "then it is succeeded; " in result[2]
    assert "an operator" not in why
    assert "dispatcher retry" not in why


def test_the_time_of_a_claim_by_hand_is_over_in_the_sight_of_a_daemon(world: World) -> None:
    world.configure(**{"queues.reviews": {"concurrency": 0}})
    task = world.submit("true", queue="reviews", run_timeout="500ms", max_attempts=1)
    claim = world.cli("claim", "--task", task, "--ttl", "1h", "--json").json
    with world.daemon() as daemon:
        daemon.expect("claim.taken_over", task_id=task)
        result = world.cli("complete", "--task", task, "--lock", claim["lock"], exits=79).stderr

    (run,) = world.show(task)["runs"]
    assert ("timed_out", "run_timeout: not done within 500ms") == (run["outcome"], run["error"])
    assert "not_running" in result
