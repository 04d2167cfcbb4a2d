"""One database by two names: a second daemon would lose the tasks of the first."""

from pathlib import Path

from tests.e2e.world import World


def test_a_daemon_on_a_hard_link_of_anothers_database_refuses_and_names_the_remedy(
    world: World, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere" / "again.db"
    link.parent.mkdir()
    with world.daemon():
        before = world.submit("true")
        link.hardlink_to(world.state_dir / "tasks.db")
        world.configure(
            node={"state_dir": str(link.parent), "runtime_dir": str(world.runtime_dir / "other")},
            store={"url": f"sqlite://{link}"},
        )

        for verb in (("run",), ("submit", "--", "true")):
            message = world.cli(*verb, exits=78).stderr
            assert f"{link} has 2 names (hard links)" in message

        link.unlink()
        world.configure()
        assert "succeeded" == world.until(before, "succeeded")["state"]
        world.until(world.submit("true"), "succeeded")
