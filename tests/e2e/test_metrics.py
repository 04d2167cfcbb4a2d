"""The metrics file of a running daemon: fresh, and never in the loop's way."""

import shutil
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.helpers import fill, small_disk
from tests.e2e.world import World
from tests.eventually import eventually


def shown(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_file_is_kept_fresh_and_its_absence_logged_once_while_work_goes_on(
    world: World,
) -> None:
    directory = world.directory / "exported"
    file = directory / "dispatcher.prom"
    world.configure(metrics={"textfile": str(file), "interval": "1s"})
    with world.daemon() as daemon:
        event = daemon.expect("metrics.unwritten")
        assert "No such file or directory; its directory must be there" in event["reason"]
        missing = world.cli("status").stdout
        assert (
            f"metrics   [metrics] textfile is not written: cannot write {file}: No such" in missing
        )
        task_id = world.submit("sleep", "1000")
        daemon.expect("run.started", task_id=task_id)
        world.cli("cancel", task_id)
        daemon.expect("run.settled", outcome="cancelled")
        directory.mkdir()
        daemon.expect("metrics.written")

        def probe() -> None:
            found = shown(file.read_text())
            assert (1, 1) == (found["dispatcher_up",], found["dispatcher_runs_total", "cancelled"])

        eventually(probe)
        assert "textfile" not in world.cli("status").stdout
        live = shown(world.cli("metrics").stdout)
        shutil.rmtree(directory)
        eventually(lambda: _assert_logged(daemon.events("metrics.unwritten"), 2))
    assert 1 == live["dispatcher_kill_duration_seconds_count",]
    assert live["dispatcher_tick_duration_seconds_sum",] > 0
    assert live["dispatcher_output_free_bytes",] > 0


def _assert_logged(events: list[object], times: int) -> None:
    assert times == len(events), events


def _assert_there(file: Path) -> None:
    assert file.exists()


def test_a_full_disk_leaves_the_old_file_and_stops_nothing(world: World) -> None:
    with small_disk(world, "exported") as disk:
        file = disk / "dispatcher.prom"
        world.configure(metrics={"textfile": str(file), "interval": "1s"})
        with world.daemon() as daemon:
            eventually(lambda: _assert_there(file))
            (filler,) = fill(disk, "bytes")
            event = daemon.expect("metrics.unwritten")
            assert "No space left on device" in event["reason"]
            assert 1 == shown(file.read_text())["dispatcher_up",]
            assert {file, filler} == set(disk.iterdir())
            task_id = world.submit("true")
            daemon.expect("run.settled", task_id=task_id, outcome="succeeded")
