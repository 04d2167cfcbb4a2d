"""The output directory within its bounds: real files, a disk whose free space the test sets."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from dispatcher.daemon import output_walk, outputs
from dispatcher.daemon.outputs import LONGEST_LOOK_INTERVAL, LOOK_INTERVAL, Bounds, OutputDirectory
from dispatcher.host import holes, output_files
from dispatcher.times import Instant, WallTime
from dispatcher.wire import RunUid

KIB = 1 << 10
WANTED = Bounds(total_budget=100 * KIB, free_floor=0)

#: The host's wall clock, ms; files are so many seconds older than that.
NOW = WallTime(1_800_000_000_000)


def uid(number: int) -> RunUid:
    return RunUid(f"{number:032x}")


@dataclass
class Place:
    """An output directory, what is open in it, and how much room its disk has."""

    directory: Path
    live: set[RunUid] = field(default_factory=set)
    free: int = 1 << 40
    at: float = 1000.0
    bounds: Bounds = WANTED
    wake_at: float = 0.0

    def __post_init__(self) -> None:
        self.outputs = OutputDirectory(str(self.directory), self.bounds, free=lambda _: self.free)

    def file(self, number: int, size: int = 40 * KIB, age: float = 0.0) -> Path:
        """Make a run's file; the higher its number, the younger."""
        path = self.directory / f"{uid(number)}.log"
        path.write_bytes(b"x" * size)
        modified = NOW / 1000 - age + number
        os.utime(path, (modified, modified))
        return path

    def work(self) -> None:
        """Let it do what it wants to do, to the end."""
        self.at += 3600
        while True:
            self.wake_at = self.outputs.run_due(lambda: self.live, at=Instant(self.at))
            if self.wake_at >= self.at + LOOK_INTERVAL:
                return
            self.at = max(self.at, self.wake_at)

    def left(self) -> list[int]:
        """Return the numbers of the files that are there."""
        return sorted(int(path.stem, 16) for path in self.directory.iterdir())

    def trouble(self) -> str:
        return "; ".join(self.outputs.report().trouble)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


def test_beyond_the_total_budget_the_oldest_output_goes_first_and_no_more_of_it_than_must(
    place: Place, logged: list[EventDict]
) -> None:
    for number in range(5):
        place.file(number)

    place.work()

    assert [3, 4] == place.left()
    (line,) = logged
    assert ("output.removed", "total_budget", 3) == (line["event"], line["reason"], line["files"])
    assert 120 * KIB == line["freed_bytes"]
    place.work()
    assert 80 * KIB == place.outputs.report().bytes
    assert "" == place.trouble()


def test_output_of_an_open_run_is_never_removed_and_the_excess_is_reported(
    place: Place, logged: list[EventDict]
) -> None:
    for number in range(5):
        place.file(number)
    place.live = {uid(0), uid(1), uid(2)}

    for _ in range(3):
        place.work()

    assert [0, 1, 2] == place.left()
    assert ["output.overflowed", "output.removed"] == sorted({line["event"] for line in logged})
    assert "output takes 120 MiB" not in place.trouble()
    assert "no run that is over has output left to remove" in place.trouble()


def test_the_warning_is_not_repeated_within_the_hour(place: Place, logged: list[EventDict]) -> None:
    place.file(0, size=200 * KIB)
    place.live = {uid(0)}

    for _ in range(100):
        place.work()
        place.at -= 3600 - 60

    assert 2 == [line["event"] for line in logged].count("output.overflowed")


def test_a_file_that_a_process_still_holds_stays_and_the_next_oldest_goes(place: Place) -> None:
    """The output lock of a run that is over: its task must not start while the process lives."""
    held = place.file(0)
    for number in range(1, 4):
        place.file(number)

    with held.open("ab") as survivor:
        fcntl.flock(survivor, fcntl.LOCK_EX)
        place.work()
        place.work()
        assert [0, 3] == place.left()

    place.file(4)
    place.work()
    assert [3, 4] == place.left()


def test_below_the_floor_of_free_space_output_goes_until_as_much_is_free(
    place: Place, logged: list[EventDict]
) -> None:
    place.outputs.bounds = Bounds(total_budget=1 << 40, free_floor=1000 * KIB)
    for number in range(5):
        place.file(number)
    place.free = 950 * KIB

    place.work()

    assert [2, 3, 4] == place.left()
    assert [("output.removed", "free_floor")] == [
        (line["event"], line["reason"]) for line in logged
    ]


def test_nothing_happened_nothing_is_walked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.file(0)
    place.work()
    walks: list[str] = []
    monkeypatch.setattr(outputs, "OutputWalk", lambda directory, *_: walks.append(directory))

    place.work()
    place.wake_at = place.outputs.run_due(set, at=Instant(place.at + 60))

    assert [] == walks
    assert place.wake_at == place.at + 60 + LONGEST_LOOK_INTERVAL


def test_while_nobody_knows_which_runs_are_open_nothing_is_removed(place: Place) -> None:
    for number in range(5):
        place.file(number)

    for second in range(100):
        place.wake_at = place.outputs.run_due(lambda: None, at=Instant(2000.0 + second))

    assert 5 == len(place.left())


def test_a_walk_over_many_files_is_done_in_pieces(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_walk, "WALKED", 3)
    monkeypatch.setattr(outputs, "REMOVED", 2)
    monkeypatch.setattr(output_walk, "OLDEST", 4)
    for number in range(20):
        place.file(number)

    left = []
    for _ in range(12):  # it begins, 7 pieces of the walk, then 2 files at a time, then it is due
        place.wake_at = place.outputs.run_due(set, at=Instant(place.at))
        place.at = place.wake_at
        left.append(len(place.left()))
    assert [20] * 8 + [18, 16] == left[:10]

    for _ in range(5):
        place.work()
    assert [18, 19] == place.left()


def test_only_output_of_runs_is_removed(place: Place) -> None:
    (place.directory / "notes.txt").write_bytes(bytes(200 * KIB))
    (place.directory / "0123.log").write_bytes(bytes(200 * KIB))

    place.work()

    assert ["0123.log", "notes.txt"] == sorted(path.name for path in place.directory.iterdir())


def test_a_link_in_place_of_an_output_file_is_not_followed(place: Place, tmp_path: Path) -> None:
    kept = tmp_path.parent / "kept"
    kept.write_bytes(b"precious")
    link = place.directory / f"{uid(1)}.log"
    link.symlink_to(kept)

    output_files.remove(str(link))

    assert b"precious" == kept.read_bytes()


def test_files_older_than_the_retention_are_suspects_and_go_when_no_store_knows_them(
    place: Place, logged: list[EventDict]
) -> None:
    place.outputs.bounds = Bounds(1 << 40, 0)
    place.outputs.expire(WallTime(NOW - 10_000_000))
    for number, age in enumerate((20_000, 20_000, 5_000, 20_000)):
        place.file(number, age=age)
    place.live = {uid(3)}

    place.work()
    suspects = place.outputs.suspects(limit=10)
    assert {uid(0), uid(1)} == set(suspects)
    place.outputs.judged(suspects, [uid(1)])
    place.work()

    assert [0, 2, 3] == place.left()
    assert "no run" == logged[-1]["reason"]


def test_paths_of_another_node_are_left_alone(place: Place, tmp_path: Path) -> None:
    theirs = tmp_path.parent / f"{uid(7)}.log"
    theirs.write_bytes(b"theirs")
    ours = place.file(1)

    place.outputs.discard([str(theirs), str(ours)], "retention")
    place.work()

    assert (True, False) == (theirs.exists(), ours.exists())


def test_output_in_a_moved_state_directory_is_removed_here(place: Place) -> None:
    moved = place.file(1)

    place.outputs.discard([f"/before/the/move/output/{moved.name}"], "retention")
    place.work()

    assert not moved.exists()


def test_a_filesystem_without_holes_is_reported_at_start_and_in_the_report(
    tmp_path: Path, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "unsupported", lambda directory: f"{directory} cannot")

    place = Place(tmp_path)

    assert [("output.uncapped", "warning")] == [(one["event"], one["log_level"]) for one in logged]
    assert f"{tmp_path} cannot" == place.trouble()
