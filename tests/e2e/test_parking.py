"""`hold`, `release`, `pause` and `resume` on real processes."""

import psutil

from tests.e2e.helpers import expect_file, shell
from tests.e2e.world import World


def test_r18_a_held_task_has_no_process_left_and_runs_again_when_it_is_released(
    world: World,
) -> None:
    task_id = world.submit(*shell("echo $$ >pid; [ $DISPATCHER_FENCE = 2 ] || sleep 1000"))
    with world.daemon():
        pid = int(expect_file(world, "pid")[0])
        assert f"{task_id} is being ended; then it is held\n" == world.cli("hold", task_id).stdout
        held = world.until(task_id, "held")
        assert not psutil.pid_exists(pid)
        (run,) = held["runs"]
        assert ("held", 0, "held by an operator") == (
            run["outcome"],
            held["attempts_used"],
            held["reason"],
        )

        world.cli("release", task_id)
        assert 2 == len(world.until(task_id, "succeeded")["runs"])


def test_a_paused_queue_waits_while_others_go_on(world: World) -> None:
    with world.daemon():
        world.cli("pause", "night")
        waiting = world.submit("true", queue="night")
        world.until(world.submit("true", queue="day"), "succeeded")
        assert "ready" == world.show(waiting)["state"]
        assert "paused" in world.cli("why", waiting).stdout

        world.cli("resume", "night")
        world.until(waiting, "succeeded")
