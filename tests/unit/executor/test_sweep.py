"""Processes that a dead executor left behind: found by mark, and never presumed gone."""

from typing import Any

import pytest

from dispatcher import wire
from dispatcher.executor.processes.answers import ABSENT, Look, Present, Unknown
from dispatcher.executor.processes.sweep import Survivors
from dispatcher.executor.records import InheritedRun
from dispatcher.host.marks import mark_of
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


def inherited(uid: wire.RunUid = OURS, *, marked: bool = True, **facts: Any) -> InheritedRun:
    known = {"output_path": f"/{uid}.log", "held_until": 1000.0, "marked": marked}
    return InheritedRun(uid=uid, at=1000.0, **known, **facts)


def look_at(survivors: Survivors, *runs: InheritedRun) -> list[Look]:
    survivors.new_tick()
    for run in runs:
        survivors.add(run)
    return [survivors.look(run.uid) for run in runs]


def test_a_survivor_without_anything_but_its_mark_is_found(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    survivor = kernel.born(INIT, leads=True, mark=mark_of(OURS), cannot_die=True)
    kernel.born(INIT, leads=True, mark=mark_of(OTHERS), environment=None)

    look = look_at(survivors, inherited(pid=50, start_ticks=1))[0]

    assert isinstance(look, Present)
    assert [survivor.pid] == [process.pid for process in look.processes]


def test_an_unreadable_stranger_does_not_keep_a_marked_run(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    """One foreign process without a readable environment made every sweep unclear."""
    stranger = kernel.born(INIT, leads=True, environment=None)

    assert ABSENT is look_at(survivors, inherited(pid=50, start_ticks=1))[0]
    unmarked = look_at(survivors, inherited(pid=50, start_ticks=1, marked=False))[0]

    assert Unknown(f"p{stranger.pid} ({stranger.pid}) cannot be read yet") == unmarked


def test_a_stranger_that_is_older_than_a_run_is_none_of_its_processes(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    kernel.born(INIT, leads=True, environment=None)
    unmarked = inherited(pid=50, start_ticks=kernel.ticks() + 1, marked=False)

    assert [ABSENT] == look_at(survivors, unmarked)


def test_r15_a_leader_that_proc_does_not_show_is_not_proved_gone(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    """Unknown identity, no signal, and no release meanwhile."""
    hidden = kernel.born(INIT, leads=True, hidden=True)

    look = look_at(survivors, inherited(pid=hidden.pid, start_ticks=1))[0]

    assert isinstance(look, Unknown)
    assert str(hidden.pid) in look.why
    assert [] == hidden.signals


def test_a_process_that_proc_hides_is_known_and_signalled_by_its_mark(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    """hidepid, and a program that is not dumpable: prlimit(2) shows its mark all the same."""
    hidden = kernel.born(INIT, leads=True, hidden=True, mark=mark_of(OURS), cannot_die=True)

    look = look_at(survivors, inherited())[0]

    assert isinstance(look, Present)
    assert [(hidden.pid, mark_of(OURS))] == [(one.pid, one.mark) for one in look.processes]


def test_nothing_is_proved_while_processes_come_and_go(
    kernel: FakeKernel, survivors: Survivors
) -> None:
    """A survivor that forks and exits, again and again, is always a pid further."""
    kernel.calm = False
    assert isinstance(look_at(survivors, inherited())[0], Unknown)

    kernel.calm = True
    assert ABSENT is look_at(survivors, inherited())[0]


def test_an_output_that_cannot_be_tested_keeps_only_its_own_run(kernel: FakeKernel) -> None:
    class Refusing(FakeOutputs):
        def is_locked(self, path: str) -> bool:
            if path == f"/{OURS}.log":
                raise PermissionError(13, "Permission denied")
            return False

    survivor = kernel.born(INIT, leads=True, mark=mark_of(OTHERS), cannot_die=True)
    survivors = Survivors(kernel, Refusing())  # type: ignore[arg-type]
    ours, others = look_at(survivors, inherited(), inherited(OTHERS))

    assert Unknown(f"/{OURS}.log: Permission denied") == ours
    assert isinstance(others, Present)
    assert [survivor.pid] == [process.pid for process in others.processes]
