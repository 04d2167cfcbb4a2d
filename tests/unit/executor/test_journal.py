"""The journal: written in one piece or not at all, read back whole (protocol 2.3)."""

import errno
import os
from pathlib import Path

import pytest

from dispatcher import wire
from dispatcher.executor import journal as module
from dispatcher.executor.journal import RETRY, RETRY_FULL, Journal
from dispatcher.executor.records import (
    Ending,
    Forgotten,
    Gone,
    Header,
    InheritedRun,
    LeaderExited,
    LeaderStarted,
    Record,
    Starting,
)
from dispatcher.executor.run import TrackedRun
from dispatcher.times import NEVER, Instant
from tests.unit.executor.world import World

HEADER = Header(boot_id="boot", pid_namespace="pids")
UID = wire.RunUid("run")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(str(tmp_path / "journal"), HEADER)
    journal.rewrite([], Instant(0.0))
    return journal


def starting(uid: str = UID, at: float = 1.0) -> Record:
    return Starting(uid=wire.RunUid(uid), at=at, output_path=f"/{uid}.log")


def rewrite(journal: Journal, runs: list[InheritedRun], at: float) -> OSError | None:
    known = [TrackedRun.taken_over(run) for run in runs]
    return journal.rewrite([run.summary(Instant(at)) for run in known], Instant(at))


def facts(run: InheritedRun) -> tuple[object, ...]:
    return (
        *(run.uid, run.output_path, type(run), run.pid, run.start_ticks),
        *(run.exit, run.ended_by, run.held_until),
    )


EXIT = wire.Exit(at=7.0, exit_code=3, cpu_seconds=0.5)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], (InheritedRun, None, None, None, None, 1.0)),
        (
            [LeaderStarted(uid=UID, at=2.0, pid=9, start_ticks=8)],
            (InheritedRun, 9, 8, None, None, 2.0),
        ),
        (
            [Ending(uid=UID, at=3.0, ended_by="lost")],
            (InheritedRun, None, None, None, "lost", 3.0),
        ),
        (
            [LeaderExited(uid=UID, at=7.5, exit=EXIT)],
            (InheritedRun, None, None, EXIT, None, 7.5),
        ),
        (
            [Gone(uid=UID, at=7.5, exit=EXIT, ended_by="absence")],
            (Gone, None, None, EXIT, "absence", 7.5),
        ),
    ],
    ids=["starting", "started", "ending", "leader_exited", "gone"],
)
def test_journaled_facts_are_known_again_also_after_a_rewrite(
    journal: Journal, lines: list[Record], expected: tuple[object, ...]
) -> None:
    for line in [starting(), *lines]:
        journal.append(line)
    assert journal.flush() is None

    (run,) = journal.predecessors_runs()
    assert (UID, "/run.log", *expected) == facts(run)

    rewrite(journal, [run], 99.0)
    (again,) = journal.predecessors_runs()
    assert facts(run) == facts(again)  # its leader was surely not reaped before


def test_a_line_has_the_form_of_earlier_executors(journal: Journal, tmp_path: Path) -> None:
    journal.append(LeaderStarted(uid=UID, at=2.0, pid=9, start_ticks=8))
    journal.append(Starting(uid=UID, at=1.0, output_path="/x", task_variables={"a": "b"}))
    journal.flush()

    assert [
        '{"event":"started","uid":"run","at":2.0,"pid":9,"start_ticks":8}',
        '{"event":"starting","uid":"run","at":1.0,"output_path":"/x","whose":{"a":"b"}}',
    ] == (tmp_path / "journal").read_text().splitlines()[1:]


def test_forgotten_is_unknown(journal: Journal) -> None:
    for line in (starting(), starting("other"), Forgotten(uid=UID, at=2.0)):
        journal.append(line)
    journal.flush()

    assert ["other"] == [run.uid for run in journal.predecessors_runs()]


def test_a_header_of_another_boot_is_not_damage_and_names_no_runs(
    journal: Journal, tmp_path: Path
) -> None:
    journal.append(starting())
    journal.flush()

    after = Journal(str(tmp_path / "journal"), Header(boot_id="next", pid_namespace="pids"))

    assert [] == after.predecessors_runs()
    assert after.damage is None


def test_it_is_compacted_when_it_has_grown(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REWRITE_AFTER", 1000)
    journal.rewrite([], Instant(0.0))
    while journal.due == NEVER:
        journal.append(starting())
        journal.flush()
    size = (tmp_path / "journal").stat().st_size

    rewrite(journal, journal.predecessors_runs(), 2.0)

    assert 1000 <= size <= 1500
    assert (tmp_path / "journal").stat().st_size <= 300
    assert NEVER == journal.due
    assert [UID] == [run.uid for run in journal.predecessors_runs()]
    assert ["journal"] == os.listdir(tmp_path)


def test_a_line_is_written_whole_or_not_at_all(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk a part may fit."""
    journal.append(starting("before"))
    journal.flush()
    really = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) > 20:
            return really(descriptor, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "write", half)
        journal.append(starting("during"))
        error = journal.flush()
    journal.append(starting("after"))

    assert error is not None
    assert errno.ENOSPC == error.errno
    assert journal.flush() is None
    assert ["before", "after"] == [run.uid for run in journal.predecessors_runs()]


# What the executor makes of it -----------------------------------------------------------------


class Disk:
    """The disk of the journal: full, or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self._really = os.write
        monkeypatch.setattr(module.os, "write", self._write)

    def _write(self, descriptor: int, data: memoryview) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._really(descriptor, data)


def test_r35_a_start_that_cannot_be_journaled_is_the_hosts_fault_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    disk = Disk(monkeypatch)

    start = wire.Start(uid=UID, epoch=1, command=("x",), env={}, output_path="/x")
    world.deliver(start)
    disk.full = False

    failed = world.last(wire.StartFailed)
    assert wire.Fault.HOST is failed.fault
    assert "No space left on device" in failed.error
    assert {} == world.kernel.processes
    world.start("next")
    assert ["next"] == [run.uid for run in world.journal.predecessors_runs()]


@pytest.mark.parametrize("others", [0, 1], ids=["idle", "busy"])
def test_a_failed_write_is_made_up_for_as_soon_as_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """A successor that had to go by the old lines would lose the exit code."""
    world = World(tmp_path)
    leader = world.start()
    for _ in range(others):
        world.start("another")
    disk = Disk(monkeypatch)

    world.end()
    world.run_for(10)
    assert "cancelled" == world.last(wire.Exited).ended_by
    assert None is world.journal.predecessors_runs()[0].ended_by
    disk.full = False
    world.run_for(RETRY)

    known = world.journal.predecessors_runs()
    assert (Gone, "cancelled") == (type(known[0]), known[0].ended_by)
    assert 1 + others == len(known)
    assert leader.pid in world.kernel.reaped
    assert NEVER == world.journal.due


def test_a_full_disk_is_tried_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.start()
    Disk(monkeypatch)
    world.end()
    tried: list[float] = []
    rewrite = world.journal.rewrite
    world.journal.rewrite = lambda runs, at: tried.append(at) or rewrite(runs, at)  # type: ignore[method-assign, func-returns-value]
    before = world.kernel.now

    world.run_for(5)

    assert [1, 2, 3, 4, 5] == [round(at - before) for at in tried]


def test_a_journal_that_could_not_be_made_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "executor.journal.new").mkdir()
    world = World(tmp_path)
    start = wire.Start(uid=UID, epoch=1, command=("x",), env={}, output_path="/x")

    world.deliver(start)
    failed = world.last(wire.StartFailed)
    assert wire.Fault.HOST is failed.fault
    assert "cannot write the journal: it could not be made: Is a directory" == failed.error
    assert "journal.write_failed" in {event["event"] for event in world.events}
    (tmp_path / "executor.journal.new").rmdir()
    world.run_for(RETRY)
    world.start()

    assert [UID] == [run.uid for run in world.journal.predecessors_runs()]


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_file_in_the_place_of_the_new_journal_is_not_written_to(
    tmp_path: Path, kind: str
) -> None:
    """A FIFO that nobody reads would hold up every worker."""
    foreign = tmp_path / "foreign"
    foreign.write_text("theirs")
    fresh = tmp_path / "executor.journal.new"
    os.mkfifo(fresh) if kind == "fifo" else fresh.symlink_to(foreign)

    world = World(tmp_path)
    world.start()

    assert [UID] == [run.uid for run in world.journal.predecessors_runs()]
    assert "theirs" == foreign.read_text()


def test_the_intention_is_on_disk_before_the_act_and_the_fact_before_its_report(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    known_at: dict[str, list[str]] = {}

    def written() -> list[str]:
        return [line.partition('"event":"')[2].partition('"')[0] for line in lines()]

    def lines() -> list[str]:
        return world.path.read_text().splitlines()[1:]

    spawn, flush, deliver = world.spawner.start, world.server.flush, world.kernel.signal_group
    world.spawner.start = lambda start: known_at.setdefault("spawn", written()) and spawn(start)  # type: ignore[method-assign]
    world.kernel.signal_group = lambda pid, signum: (  # type: ignore[method-assign]
        known_at.setdefault("signal", written()) and deliver(pid, signum)
    )
    world.server.flush = lambda at: known_at.update({"flush": written()}) or flush(at)  # type: ignore[method-assign, func-returns-value]

    world.start()
    assert ["starting"] == known_at["spawn"]
    assert ["starting", "started"] == known_at["flush"]
    world.end()
    assert ["starting", "started", "ending"] == known_at["signal"]
    assert ["starting", "started", "ending", "gone"] == known_at["flush"]


def test_at_most_two_writes_a_tick(tmp_path: Path) -> None:
    world = World(tmp_path)
    for n in range(20):
        world.start(str(n))
    writes = []
    flush = world.journal.flush

    def counted() -> OSError | None:
        before = len(world.path.read_bytes().splitlines())
        error = flush()
        if written := len(world.path.read_bytes().splitlines()) - before:
            writes.append(written)
        return error

    world.journal.flush = counted  # type: ignore[method-assign]
    world.deliver(*(wire.End(uid=wire.RunUid(str(n)), reason="lost") for n in range(20)))

    assert [20, 20] == writes


# Away from the state directory ------------------------------------------------------------------


class Apart:
    """A state directory, and where the journal is kept."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "executor.journal"
        self.memory = directory / "memory"
        self.memory.mkdir()

    def journal(self, name: str = "node.journal") -> Journal:
        return Journal(str(self.path), HEADER, kept_at=str(self.memory / name))


@pytest.fixture
def apart(tmp_path: Path) -> Apart:
    return Apart(tmp_path)


def write(journal: Journal, *lines: Record) -> None:
    journal.rewrite([], Instant(0.0))
    for line in lines:
        journal.append(line)
    assert journal.flush() is None
    journal.close()


def uids(journal: Journal) -> list[str]:
    return [run.uid for run in journal.predecessors_runs()]


def test_a_successor_finds_a_journal_that_is_kept_apart(apart: Apart) -> None:
    write(apart.journal(), starting())

    assert apart.path.is_symlink()
    assert [UID] == uids(apart.journal())
    assert [UID] == uids(apart.journal("of-another-runtime-directory")), "wherever it was kept"
    assert [UID] == uids(Journal(str(apart.path), HEADER)), "also one that keeps its own here"


def test_a_journal_of_before_is_read_and_then_kept_apart(apart: Apart) -> None:
    write(Journal(str(apart.path), HEADER), starting())
    successor = apart.journal()

    runs = successor.predecessors_runs()
    assert rewrite(successor, runs, 2.0) is None

    assert apart.path.is_symlink()
    assert [UID] == uids(apart.journal())
    successor.close()


def test_a_journal_may_come_back_to_the_state_directory(apart: Apart) -> None:
    write(apart.journal(), starting())
    successor = Journal(str(apart.path), HEADER)
    assert rewrite(successor, successor.predecessors_runs(), 2.0) is None
    successor.close()

    assert not apart.path.is_symlink()
    assert [UID] == uids(apart.journal())


def test_a_lost_journal_names_no_runs(apart: Apart) -> None:
    """As after a boot, which no process survives."""
    write(apart.journal(), starting())
    (apart.memory / "node.journal").unlink()

    assert [] == uids(apart.journal())


def test_a_journal_that_nobody_would_find_is_none(apart: Apart) -> None:
    """Its runs could not be swept: nothing starts, and it is tried again."""
    apart.path.mkdir()
    journal = apart.journal()

    assert journal.rewrite([], Instant(0.0)) is not None
    journal.append(starting())
    assert journal.flush() is not None
    assert RETRY == journal.due

    apart.path.rmdir()
    assert journal.rewrite([], Instant(2.0)) is None
    journal.append(starting())
    assert journal.flush() is None
    assert [UID] == uids(apart.journal())
    journal.close()


def test_a_rewrite_needs_the_state_directory_once(apart: Apart) -> None:
    journal = apart.journal()
    journal.rewrite([], Instant(0.0))
    apart.path.unlink()

    assert journal.rewrite([], Instant(2.0)) is None
    assert not apart.path.is_symlink()
    journal.close()


def test_a_journal_that_was_removed_with_its_directory_is_written_again_at_once(
    apart: Apart,
) -> None:
    journal = apart.journal()
    journal.rewrite([], Instant(0.0))
    assert (True, NEVER) == (journal.is_there, journal.due)
    (apart.memory / "node.journal").unlink()

    assert not journal.is_there
    journal.restore()
    assert Instant(0.0) == journal.due
    journal.rewrite([], Instant(1.0))

    assert (True, NEVER) == (journal.is_there, journal.due)
    assert (apart.memory / "node.journal").exists()
    journal.close()


def test_a_journal_whose_directory_was_removed_is_in_the_state_directory_meanwhile(
    apart: Apart,
) -> None:
    """A logout, then the executor is killed: a task that had succeeded ran once more."""
    journal = apart.journal()
    journal.rewrite([], Instant(0.0))
    (apart.memory / "node.journal").unlink()
    apart.memory.rmdir()
    apart.memory.touch()
    journal.restore()

    assert journal.rewrite([], Instant(1.0)) is None
    journal.append(starting())
    assert journal.flush() is None
    assert (False, True) == (apart.path.is_symlink(), journal.is_there)
    assert [UID] == uids(apart.journal())

    apart.memory.unlink()
    assert (True, NEVER) == (journal.is_there, journal.due)
    apart.memory.mkdir()
    assert not journal.is_there, "a disk that hangs would hold the executor up"
    journal.restore()
    assert Instant(0.0) == journal.due
    journal.rewrite([], Instant(2.0))
    assert (True, True) == (apart.path.is_symlink(), journal.is_there)
    journal.close()


@pytest.mark.parametrize("noticed", [True, False], ids=["after a while", "at once"])
def test_r35_a_directory_that_root_made_again_leaves_the_journal_in_the_state_directory(
    apart: Apart, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    """The executor may not write there: each second a rewrite failed, and none compacted."""
    journal = apart.journal()
    journal.rewrite([], Instant(0.0))
    (apart.memory / "node.journal").unlink()
    if noticed:
        apart.memory.rmdir()
        assert journal.rewrite([], Instant(1.0)) is None
        apart.memory.mkdir()
    with monkeypatch.context() as patched:
        close_to_this_user(apart.memory, patched)
        assert noticed == journal.is_there
        assert journal.rewrite([], Instant(2.0)) is None
        journal.append(starting())
        assert journal.flush() is None

        assert (False, True) == (apart.path.is_symlink(), journal.is_there)
        assert NEVER == journal.due
        assert [UID] == uids(apart.journal())

    assert not journal.is_there
    assert journal.rewrite([], Instant(3.0)) is None
    assert (True, True) == (apart.path.is_symlink(), journal.is_there)
    journal.close()


def test_a_full_runtime_directory_is_tried_again_after_a_minute_not_each_second(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was open, so it counted as room: each look rewrote the journal on the state's disk."""
    really, journal = os.open, apart.journal()

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and Path(path).parent == apart.memory:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return really(path, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "open", full)
        for at in (0.0, RETRY_FULL):
            assert journal.rewrite([], Instant(at)) is None
            assert (True, at + RETRY_FULL) == (journal.is_there, journal.due)
        journal.append(starting())
        assert journal.flush() is None
        assert [UID] == uids(apart.journal())
        apart.path.unlink()
        assert not journal.is_there, "no successor would find it"
        journal.restore()
        assert Instant(0.0) == journal.due

    assert journal.rewrite([], Instant(2 * RETRY_FULL)) is None
    assert (True, True, NEVER) == (apart.path.is_symlink(), journal.is_there, journal.due)
    journal.close()


def test_a_rewrite_that_fails_leaves_a_journal_that_a_successor_finds_where_it_is(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = apart.journal()
    journal.rewrite([], Instant(0.0))
    with monkeypatch.context() as patched:
        close_to_this_user(apart.memory, patched)
        assert journal.rewrite([], Instant(1.0)) is not None
    journal.append(starting())
    assert journal.flush() is None

    assert (True, True) == (apart.path.is_symlink(), journal.is_there)
    assert [UID] == uids(apart.journal())
    journal.close()


def close_to_this_user(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what a directory of root's refuses an ordinary user, also to root."""
    really = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and Path(path).parent == directory:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return really(path, flags, mode)

    monkeypatch.setattr(module.os, "open", refuse)
    monkeypatch.setattr(module.os, "access", lambda path, _: Path(path) != directory)
