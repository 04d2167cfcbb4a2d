"""A look at this host for what lives of a run: real files, real processes."""

import fcntl
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispatcher.daemon.survivors import survivors
from dispatcher.host import marks
from dispatcher.wire import RunUid
from tests.eventually import eventually

#: Not those of a test that runs meanwhile: the whole host is scanned.
UID, OTHER = RunUid(uuid.uuid4().hex), RunUid(uuid.uuid4().hex)

WAITS = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / f"{UID}.log"


@contextmanager
def process(*command: str, mark: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends, with a mark as its executor gives it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    resource.setrlimit(resource.RLIMIT_RTTIME, (soft if mark is None else mark, hard))
    running = subprocess.Popen(command or WAITS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    resource.setrlimit(resource.RLIMIT_RTTIME, (soft, hard))
    with running:
        try:
            yield running
        finally:
            running.stdin.close()
            running.stdout.close()


def look(*paths: Path) -> str | None:
    return survivors({UID: [str(path) for path in paths]}).get(UID)


def test_nothing_lives_without_a_file_and_a_process(tmp_path: Path, output: Path) -> None:
    output.write_text("output")

    assert look(output, tmp_path / "missing.log", output / "below a file") is None


def test_an_output_that_is_locked_is_a_sign_of_life_at_either_path(
    tmp_path: Path, output: Path
) -> None:
    with output.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        found = look(tmp_path / "moved-away.log", output)

    expected = f"a process on this host still has its output open (fuser -v {output})"
    assert f"{expected}; end them, or wait until they exit" == found
    assert look(output) is None


def test_a_look_does_not_appear_as_a_sign_of_life_to_another(output: Path) -> None:
    output.touch()
    with output.open("rb") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)

        assert look(output) is None


def test_a_file_that_cannot_be_looked_at_leaves_it_unknown(output: Path) -> None:
    output.symlink_to(output)

    found = look(output)

    assert found is not None
    assert found.startswith(f"it may live, as its output {output} cannot be opened: ")
    assert found.endswith("; let this user open it")


def test_a_process_with_the_mark_is_named_and_one_with_another_is_not() -> None:
    with process(mark=marks.mark_of(UID)) as running, process(mark=marks.mark_of(OTHER)):
        found = look()

        assert found is not None
        assert found.startswith("its processes live on this host: ")
        assert found.endswith(f" ({running.pid}); end them, or wait until they exit")
    assert look() is None


def test_a_process_that_nobody_reaped_yet_does_not_live() -> None:
    with process("true", mark=marks.mark_of(UID)) as running:
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)

        assert marks.read_mark(running.pid) == marks.mark_of(UID)
        assert look() is None


@pytest.mark.parametrize("named", ["by its pid", "by its parent's"])
def test_an_executor_that_is_just_spawning_is_never_named_but_its_child_is(named: str) -> None:
    """Until its exec, a child has its executor's name and mark."""
    call = "import os, sys; from dispatcher.host.marks import name_spawner; name_spawner();"
    if named == "by its parent's":
        call += "child = os.fork(); child and (os.waitpid(child, 0), sys.exit());"
    with process(
        sys.executable,
        "-c",
        f"{call} print(os.getpid(), flush=True); sys.stdin.read()",
        mark=marks.mark_of(UID),
    ) as running:
        pid = int(running.stdout.readline())
        found = look()

        if named == "by its pid":
            assert found is None
        else:
            assert found is not None
            assert f"this host: executor{running.pid} ({pid}); end" in found


def test_the_mark_outlives_environment_session_outputs_and_parents() -> None:
    escape = "(env -i setsid sh -c 'exec >/dev/null 2>&1 <&3; cat' &)"
    with process("sh", "-c", f"exec 3<&0; {escape}", mark=marks.mark_of(UID)) as running:
        running.wait()

        found = look()
        assert found is not None
        assert f"({running.pid})" not in found
    eventually(lambda: _expect(look() is None))


def _expect(holds: bool) -> None:
    assert holds


def test_a_mark_is_read_from_proc_if_prlimit_is_not_permitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> tuple[int, int]:
        raise PermissionError(1, "Operation not permitted")

    with process(mark=marks.mark_of(UID)) as running:
        eventually(lambda: _expect(marks.read_mark(running.pid) == marks.mark_of(UID)))
        monkeypatch.setattr(resource, "prlimit", refused)

        assert marks.mark_of(UID) == marks.read_mark(running.pid)
        assert 0 == marks.read_mark(os.getpid())
        assert marks.read_mark(2**22 + 1) is None


def test_marks_of_two_runs_differ_in_61_bits() -> None:
    assert 2**62 + (int(UID, 16) & (2**61 - 1)) == marks.mark_of(UID)
    assert marks.mark_of(UID) != marks.mark_of(OTHER)
