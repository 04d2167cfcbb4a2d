"""A process of a run that its user may signal, and read little of."""

from tests.e2e.helpers import expect_settled, shell
from tests.e2e.users import AGENT, LOOKS_FOR_A_TWIN, belongs_to_a_user, needs_guarded_agent
from tests.e2e.world import World


def test_an_agent_is_ended_before_its_task_runs_again_though_it_may_be_anothers(
    world: World,
) -> None:
    needs_guarded_agent()
    belongs_to_a_user(world)
    with world.daemon() as daemon:
        lasting = world.submit("sleep", "1000")
        daemon.expect("run.started", task_id=lasting)
        task_id = world.submit(*shell(f"{LOOKS_FOR_A_TWIN}{AGENT}\nexit 1"), max_attempts=2)

        expect_settled(daemon, [task_id], outcome="succeeded")
        assert not (world.directory / "twin").exists(), "it lived during the retry"
        world.cli("cancel", lasting)
        expect_settled(daemon, [lasting], outcome="cancelled")
