"""What a dead executor left behind: found by its mark, and never taken for gone unseen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dispatcher import wire
from dispatcher.executor.run import Run
from dispatcher.executor.sweep import Survivors
from dispatcher.executor.tree import ABSENT, Present, Unknown
from dispatcher.marks import mark_of
from tests.unit.executor.world import FakeKernel, FakeOutputs

#: An executor that had nothing to do with these processes.
INIT = 2

OURS, OTHERS = wire.RunUid("a" * 32), wire.RunUid("b" * 32)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def survivors(kernel: FakeKernel) -> Survivors:
    outputs = FakeOutputs()
    return Survivors(kernel, outputs)  # type: ignore[arg-type]


def inherited(*, marked: bool = True, **facts: object) -> Run:
    return Run(OURS, "/a.log", held_until=1000.0, marked=marked, **facts)  # type: ignore[arg-type]


def test_a_survivor_without_anything_but_its_mark_is_found(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    survivor = kernel.born(INIT, leads=True, mark=mark_of(OURS))
    kernel.born(INIT, leads=True, mark=mark_of(OTHERS), environment=None)

    look = survivors.look([inherited(pid=50, start_ticks=1)])[OURS]

    assert isinstance(look, Present)
    assert [survivor.pid] == [process.pid for process in look.processes]


def test_what_cannot_be_read_of_a_stranger_does_not_keep_a_marked_run(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    """One foreign process without a readable environment made every sweep unclear."""
    stranger = kernel.born(INIT, leads=True, environment=None)

    assert ABSENT is survivors.look([inherited(pid=50, start_ticks=1)])[OURS]
    unmarked = survivors.look([inherited(pid=50, start_ticks=1, marked=False)])[OURS]

    assert Unknown(f"p{stranger.pid} ({stranger.pid}) cannot be read yet") == unmarked


def test_a_leader_that_proc_does_not_show_is_not_proved_gone(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    """R-15: unknown identity, no signal, and no release beside it."""
    hidden = kernel.born(INIT, leads=True, hidden=True)

    look = survivors.look([inherited(pid=hidden.pid, start_ticks=1)])[OURS]

    assert isinstance(look, Unknown)
    assert str(hidden.pid) in look.why
    assert [] == hidden.heard


def test_runs_that_no_journal_names_are_known_by_their_outputs_and_marks(
    kernel: FakeKernel, survivors: Survivors, tmp_path: Path
) -> None:
    copied = tmp_path / "output" / f"{OTHERS}.log"
    copied.parent.mkdir()
    copied.touch()
    os.utime(copied, (1, 1))
    (tmp_path / "node-id").touch()
    (tmp_path / "output" / f"{OURS}.log").touch()
    for uid in (OURS, OTHERS, "c" * 32):  # the second ran before this node was made elsewhere
        kernel.born(INIT, leads=True, mark=mark_of(uid))

    assert [OURS] == survivors.unlisted([], str(tmp_path))
    assert [] == survivors.unlisted([OURS], str(tmp_path))
    assert [] == survivors.unlisted([], str(tmp_path / "none"))


def test_what_another_living_executor_started_is_not_ours_whatever_our_outputs_say(
    kernel: FakeKernel, survivors: Survivors, tmp_path: Path
) -> None:
    """A copied output directory without a journal: its second owner killed the first one's runs."""
    (tmp_path / "output").mkdir()
    (tmp_path / "node-id").touch()
    (tmp_path / "output" / f"{OURS}.log").touch()
    other = kernel.born(INIT, leads=True)
    kernel.executors.add(other.pid)
    worker = kernel.born(other.pid, leads=True, mark=mark_of(OURS))
    kernel.born(worker.pid, leads=True, mark=mark_of(OURS))

    assert [] == survivors.unlisted([], str(tmp_path))
    worker.parent = INIT  # the other one died
    assert [OURS] == survivors.unlisted([], str(tmp_path))
