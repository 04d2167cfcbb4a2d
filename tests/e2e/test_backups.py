"""`dispatcher backup` under a daemon at work, and `dispatcher restore` in its place."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.world import World

#: From 2020 on, as fences of a restored store count.
UNTIL_2026_MS = 189_388_800_000


def test_r78_a_backup_is_made_under_a_running_daemon_and_a_restore_is_refused_with_its_name(
    world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    with world.daemon() as daemon:
        done = world.submit("true")
        world.until(done, "succeeded")

        made = world.cli("backup", copy, "--json").json
        assert (str(copy), 1, copy.stat().st_size) == (made["file"], made["tasks"], made["bytes"])
        refused = world.cli("backup", copy, exits=1).stderr
        assert f"{copy} exists; name another file, or add --overwrite" in refused
        refused = world.cli("restore", copy, exits=75).stderr
        assert f"is in use by pid {daemon.pid}, state directory {world.state_dir}" in refused

        world.until(world.submit("true"), "succeeded")
    assert 2 == len(world.cli("list", "--json").json)


def test_r78_a_restored_store_repeats_its_open_runs_once_and_no_id_or_fence(
    world: World, tmp_path: Path
) -> None:
    copy, diary = tmp_path / "copy.db", tmp_path / "diary"
    note = f"echo $DISPATCHER_TASK_ID $DISPATCHER_FENCE >> {diary}"
    with world.daemon() as daemon:
        Path(f"{copy}.wait").touch()
        running = world.submit("sh", "-c", f"{note}; while [ -e {copy}.wait ]; do sleep 0.05; done")
        daemon.expect("run.started")
        world.cli("backup", copy)
        lost = world.submit("sh", "-c", note)
        world.until(lost, "succeeded")
        Path(f"{copy}.wait").unlink()
        world.until(running, "succeeded")

    printed = world.cli("restore", copy).stdout

    assert f"{world.state_dir}/tasks.db: 1 tasks, the next one is {lost + 1}" in printed
    assert "the old database is kept: " in printed
    assert "1 was running: the daemon settles its runs once nothing of them lives; " in printed
    with world.daemon():
        again = world.until(running, "succeeded")
        new = world.submit("sh", "-c", note)
        world.until(new, "succeeded")
    fence = again["runs"][1]["fence"]
    assert ["orphaned", "succeeded"] == [run["outcome"] for run in again["runs"]]
    assert lost + 1 == new
    assert [
        *(f"{running} 1", f"{lost} 1"),
        *(f"{running} {fence}", f"{new} 1"),
    ] == diary.read_text().splitlines()
    assert UNTIL_2026_MS < fence


def test_after_a_lost_state_directory_a_look_at_the_new_one_hides_nothing(
    world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    world.submit("true")
    world.cli("backup", copy)
    shutil.rmtree(world.state_dir)
    world.cli("status")

    restored = world.cli("restore", copy, "--json").json

    assert UNTIL_2026_MS < restored["next_id"]


@pytest.mark.parametrize("typed", ["backup", "restore", "metrics --textfile", "demo --svg"])
def test_an_empty_file_name_is_a_usage_error(world: World, typed: str) -> None:
    assert "it is empty; name a file" in world.cli(*typed.split(), "", exits=2).stderr
