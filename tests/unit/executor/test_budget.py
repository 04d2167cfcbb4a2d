"""Output files within their budgets: real files, virtual time."""

from __future__ import annotations

import os
from pathlib import Path

from dispatcher.executor.budget import LONGEST_PAUSE, MOST_PUNCHED, SHORTEST_PAUSE, Budgets
from dispatcher.executor.log import Log
from dispatcher.executor.run import NEVER
from dispatcher.times import Instant
from dispatcher.wire import RunUid

UID = RunUid("a")
BUDGET = 1 << 20


def make(tmp_path: Path) -> tuple[Budgets, Path]:
    budgets = Budgets(Log(os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)))
    path = tmp_path / "run.log"
    path.touch()
    budgets.watch(UID, str(path), BUDGET, Instant(0.0))
    return budgets, path


def append(path: Path, size: int, byte: bytes = b"x") -> None:
    with path.open("ab") as file:
        file.write(byte * size)
        file.flush()
        os.fsync(file.fileno())


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_r67_the_oldest_bytes_are_punched_out_and_offsets_stay(tmp_path: Path) -> None:
    budgets, path = make(tmp_path)
    append(path, 3 * BUDGET)
    append(path, BUDGET, b"y")

    budgets.keep(budgets.due)

    kept = path.read_bytes()
    assert 4 * BUDGET == len(kept)
    assert b"y" * BUDGET == kept[-BUDGET:]
    assert bytes(3 * BUDGET) == kept[: 3 * BUDGET]
    assert on_disk(path) <= BUDGET + 65536


def test_what_is_within_the_budget_is_not_touched(tmp_path: Path) -> None:
    budgets, path = make(tmp_path)
    append(path, BUDGET)

    budgets.keep(budgets.due)

    assert b"x" * BUDGET == path.read_bytes()


def test_a_quiet_file_is_looked_at_ever_less_and_a_growing_one_often(tmp_path: Path) -> None:
    budgets, path = make(tmp_path)
    at, pauses = budgets.due, []
    for _ in range(6):
        budgets.keep(at)
        pauses.append(round(budgets.due - at, 3))
        at = budgets.due
    append(path, BUDGET)
    budgets.keep(at)

    assert [0.2, 0.4, 0.8, 1.6, LONGEST_PAUSE, LONGEST_PAUSE] == pauses
    assert SHORTEST_PAUSE == round(budgets.due - at, 3)


def test_a_run_that_is_gone_ends_within_its_budget_and_is_looked_at_no_more(
    tmp_path: Path,
) -> None:
    budgets, path = make(tmp_path)
    append(path, 3 * BUDGET)

    budgets.drop(UID)
    budgets.keep(budgets.due)

    assert on_disk(path) <= BUDGET + 65536
    assert budgets.due == NEVER


def test_one_look_punches_no_more_than_so_much(tmp_path: Path) -> None:
    budgets, path = make(tmp_path)
    os.truncate(path, 2 * MOST_PUNCHED)
    append(path, BUDGET)
    with path.open("r+b") as file:
        file.seek(MOST_PUNCHED)
        file.write(b"late")

    budgets.keep(budgets.due)
    with path.open("rb") as file:
        file.seek(MOST_PUNCHED)
        assert b"late" == file.read(4)

    budgets.keep(budgets.due)
    with path.open("rb") as file:
        file.seek(MOST_PUNCHED)
        assert bytes(4) == file.read(4)


def test_a_file_that_its_writer_truncates_is_kept_within_its_budget_again(tmp_path: Path) -> None:
    budgets, path = make(tmp_path)
    append(path, 3 * BUDGET)
    budgets.keep(budgets.due)
    os.truncate(path, 0)
    budgets.keep(budgets.due)
    append(path, 2 * BUDGET)

    budgets.keep(budgets.due)

    assert on_disk(path) <= BUDGET + 65536


def test_a_file_that_somebody_removed_harms_nobody(tmp_path: Path) -> None:
    budgets, path = make(tmp_path)
    path.unlink()

    budgets.keep(budgets.due)
    budgets.drop(UID)
