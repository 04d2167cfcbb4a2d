"""A journal that another program wrote to: what can be read of it, and what cannot.

A successor goes on with what is left, and reports what is lost.
"""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from dispatcher import wire, worker_api
from dispatcher.errors import ConfigError
from dispatcher.executor.journal import MAX_SIZE, Journal
from dispatcher.executor.records import MAX_LINE, Damage, Gone, Header
from tests.unit.executor.world import SELF, World

HEADER = Header(boot_id="boot", pid_namespace="pids")
HEAD = msgspec.json.encode(HEADER)
EXIT = wire.Exit(at=7.0, exit_code=3)


def line(uid: str = "run", event: str = "starting", **facts: object) -> bytes:
    return msgspec.json.encode({"event": event, "uid": uid, "at": 1.0, **facts})


def journal(directory: Path, *lines: bytes) -> Journal:
    path = directory / "executor.journal"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return Journal(str(path), HEADER)


def uids(journal: Journal) -> list[str]:
    return [run.uid for run in journal.predecessors_runs()]


DAMAGED = {
    "a byte 0xff in a name": line("\0").replace(b"\\u0000", b"\xff"),
    "a byte 0xff": b"\xff",
    "zeros": bytes(512),
    "half a line": line()[:20],
    "empty": b"",
    "no object": b"[]",
    "another object": b"{}",
    "another event": line(event="unheard of"),
    "another header": HEAD,
    "nested deep": b'{"event":"starting","more":' + b"[" * 100_000,
    "half a character": line("\0").replace(b"\\u0000", b"\\ud800"),
    "a number as its name": line(uid=5),  # type: ignore[arg-type]
    "no name": line(uid=""),
    "a name of 100 characters": line("x" * 100),
    "longer than any": line(ended_by="x" * 3 * MAX_LINE),
    "as long as a piece": line(ended_by="x" * (2 * MAX_LINE - len(line(ended_by="")))),
    "a text as a pid": line(event="started", pid="9"),
    "everybody's pid": line(event="started", pid=0),
    "a group as a pid": line(event="started", pid=-9),
    "a pid of no kernel": line(event="started", pid=2**70),
    "a start before all": line(event="started", start_ticks=-1),
    "a start of no clock": line(event="started", start_ticks=2**70),
    "a moment of no clock": line(at=1e300),
    "a moment before all": line(at=-1),
    "a NUL in a path": line(output_path="/a\0b"),
    "an exit code of no process": line(event="gone", exit={"at": 1.0, "exit_code": 2**70}),
    "an exit that no clock saw": line(event="gone", exit={"at": 1e300, "exit_code": 0}),
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_costs_that_line_and_is_counted(tmp_path: Path, damaged: bytes) -> None:
    torn = journal(tmp_path, HEAD, line("first"), damaged, line("second"), damaged, line("last"))

    assert ["first", "second", "last"] == uids(torn)
    assert Damage(lines=2, first=3) == torn.damage


def test_a_last_line_torn_by_the_death_of_its_writer_is_not_damage(tmp_path: Path) -> None:
    torn = journal(tmp_path, HEAD, line("first"))
    with Path(torn.path).open("ab") as file:
        file.write(line("last")[:-5])

    assert ["first"] == uids(torn)
    assert torn.damage is None


NO_HEADER = {
    "a byte 0xff": HEAD.replace(b"boot_id", b"boot\xffid"),
    "zeros": bytes(len(HEAD)),
    "empty": b"",
    "half": HEAD[:20],
    "nested deep": b"[" * 100_000,
    "of numbers": b'{"event":"header","boot_id":1,"pid_namespace":2}',
}


@pytest.mark.parametrize("header", NO_HEADER.values(), ids=NO_HEADER)
def test_without_its_header_a_run_is_known_by_its_uid_and_not_by_its_pid(
    tmp_path: Path, header: bytes
) -> None:
    """The owner of that pid in another boot or namespace is unknown."""
    starting = line(output_path="/run.log")
    started = line(event="started", pid=9, start_ticks=8)
    over = line("over", event="gone", exit=EXIT)
    headless = journal(tmp_path, header, starting, started, over)

    run, gone = headless.predecessors_runs()

    assert ("run", None, None, "/run.log") == (run.uid, run.pid, run.start_ticks, run.output_path)
    assert (Gone, EXIT) == (type(gone), gone.exit)
    assert Damage(lines=1, first=1) == headless.damage


def test_an_empty_journal_names_no_runs_and_counts_as_damaged(tmp_path: Path) -> None:
    empty = journal(tmp_path)

    assert [] == uids(empty)
    assert Damage(lines=1, first=1) == empty.damage


def test_a_journal_that_is_whole_or_of_another_boot_or_not_there_has_no_damage(
    tmp_path: Path,
) -> None:
    whole = journal(tmp_path, HEAD, line())
    foreign = Journal(whole.path, Header(boot_id="next", pid_namespace="pids"))
    missing = Journal(f"{whole.path}.not-there", HEADER)

    assert [["run"], [], []] == [uids(one) for one in (whole, foreign, missing)]
    assert [None] * 3 == [one.damage for one in (whole, foreign, missing)]


# What cannot be read at all ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "loop", "huge"])
def test_a_file_that_is_not_a_journal_is_refused_by_its_name_with_the_remedy(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "executor.journal"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to(os.devnull)
        case "loop":
            path.symlink_to(path)
        case "huge":
            path.touch()
            os.truncate(path, MAX_SIZE + 1)

    with pytest.raises(ConfigError) as refused:
        Journal(str(path), HEADER).predecessors_runs()

    message, _, remedy = str(refused.value).partition("; ")
    assert str(path) in message
    assert "let the executor's user read it or, when none of its runs lives, move it" in remedy


def test_a_journal_whose_disk_fails_is_refused_by_its_name(tmp_path: Path) -> None:
    """A file of /proc is regular, opens, and cannot be read."""
    path = tmp_path / "executor.journal"
    path.symlink_to("/proc/self/mem")
    assert stat.S_ISREG(path.stat().st_mode)

    with pytest.raises(ConfigError, match=r"executor\.journal cannot be read: Input/output error"):
        Journal(str(path), HEADER).predecessors_runs()


# What the executor makes of it -------------------------------------------------------------------


def test_a_successor_names_the_damage_and_ends_what_survives_of_a_run_it_half_knows(
    tmp_path: Path,
) -> None:
    journal(tmp_path, HEAD, line(), b"\xff", b"\xff")
    world = World(tmp_path, greeted=False)
    survivor = world.kernel.born(
        SELF, leads=True, environment=f"{worker_api.MARKER}=run\0".encode()
    )
    survivor.parent = 0

    world.run_for(1)
    world.connect(connected=True)

    (damaged,) = [event for event in world.events if event["event"] == "journal.damaged"]
    assert {"path": str(world.path), "lines": 2, "first": 3} == {
        name: damaged[name] for name in ("path", "lines", "first")
    }
    assert survivor.status is not None
    (run,) = world.sent(wire.RunReport)
    assert ("run", wire.RunState.GONE, wire.EndedBy.SWEPT) == (run.uid, run.state, run.ended_by)
    again = Journal(str(world.path), HEADER)
    assert ["run"] == uids(again)
    assert again.damage is None  # what is left was written anew
