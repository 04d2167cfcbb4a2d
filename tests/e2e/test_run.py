"""The verbs with a running daemon."""

from tests.e2e.world import World


def test_a_submitted_task_runs_and_every_verb_shows_it(world: World) -> None:
    with world.daemon() as daemon:
        task_id = world.submit("sh", "-c", "echo hello; exit 0")

        task = world.until(task_id, "succeeded")
        status = world.cli("status", "--json").json

        assert "hello\n" == world.cli("logs", task_id).stdout
        assert ["succeeded", 0, "hello\n"] == [
            task["runs"][0][key] for key in ("outcome", "exit_code", "output_tail")
        ]
        assert ("running", daemon.pid, "connected") == tuple(
            status[key] for key in ("daemon", "daemon_pid", "executor")
        )
        assert (4, daemon.expect("daemon.started")["node"]) == (
            status["node"]["slots"],
            status["node"]["id"],
        )


def test_output_that_is_not_text_is_printed_as_it_is(world: World) -> None:
    with world.daemon():
        task_id = world.submit("printf", r"a\377\000b")
        world.until(task_id, "succeeded")

    assert "a\udcff\0b" == world.cli("logs", task_id).stdout
    assert "a\ufffd" in world.show(task_id)["runs"][0]["output_tail"]


def test_a_drain_does_not_wait_for_a_paused_queue_and_reports_what_it_leaves(world: World) -> None:
    left, done = world.submit("true", queue="nightly"), world.submit("true")
    world.cli("pause", "nightly")

    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()
        assert ["nightly"] == daemon.expect("queue.left_paused")["queues"]
        assert 1 == len(daemon.events("queue.left_paused"))

    assert ("ready", "succeeded") == (world.show(left)["state"], world.show(done)["state"])


def test_drain_ends_when_nothing_is_left_to_do(world: World) -> None:
    tasks = [world.submit("true") for _ in range(3)] + [world.submit("true", delay="300ms")]

    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    assert ["succeeded"] * 4 == [world.show(task)["state"] for task in tasks]


def test_a_world_ends_what_a_killed_daemon_left(world: World) -> None:
    with world.daemon() as daemon:
        task_id = world.submit("sleep", "1000")
        world.until(task_id, "running")
        daemon.kill()
    assert world.processes()

    world.sweep()

    assert [] == world.processes()
