import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.errors import AlreadyHeld, HostTrouble
from dispatcher.host.locks import lock_file
from dispatcher.store.open import lock_database

HOLD = """
import sys
from pathlib import Path
from dispatcher.host.locks import lock_file
held = lock_file(Path(sys.argv[1]), "it", holder="state directory /elsewhere")
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_second_holder_gets_the_name_of_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(AlreadyHeld) as refused:
            lock_file(lock, "the state directory")
        other.kill()
        other.wait()

        lock_file(lock, "the state directory").close()

    assert f"pid {other.pid}, state directory /elsewhere" in str(refused.value)
    assert str(refused.value).startswith("the state directory is in use by ")


def test_a_holder_on_another_host_is_named_with_its_host(tmp_path: Path) -> None:
    """Each of two containers has a process 1."""
    lock = tmp_path / "lock"
    with closing(lock_file(lock, "it", holder="state directory /s")):
        written = lock.read_text()
        lock.write_text("pid 1, state directory /s\nhost 0a1b2c")
        with pytest.raises(AlreadyHeld) as refused:
            lock_file(lock, "it")

    assert f"pid {os.getpid()}, state directory /s\nhost {os.uname().nodename}" == written
    assert "it is in use by pid 1, state directory /s, on host 0a1b2c (lock" in str(refused.value)


def test_a_lock_is_let_go_by_release_and_by_with(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    held = lock_file(lock, "it")
    held.close()
    held.close()
    with closing(lock_file(lock, "it")), pytest.raises(AlreadyHeld):
        lock_file(lock, "it")
    lock_file(lock, "it").close()

    assert lock.exists()


def test_the_file_names_its_latest_holder_alone(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock_file(lock, "it", holder="with a very long name that was here before").close()
    lock_file(lock, "it", holder="me").close()

    assert f"pid {os.getpid()}, me\nhost {os.uname().nodename}" == lock.read_text()


def test_a_lock_that_cannot_be_made_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(HostTrouble, match=r"cannot lock it: .*/nowhere/lock: No such file"):
        lock_file(tmp_path / "nowhere" / "lock", "it")


def test_a_refused_lock_leaves_no_descriptor(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with closing(lock_file(lock, "it")):
        before = os.listdir("/proc/self/fd")
        for _ in range(10):
            with pytest.raises(AlreadyHeld):
                lock_file(lock, "it")
        after = os.listdir("/proc/self/fd")

    assert before == after


def test_r58_two_daemons_cannot_have_one_database(tmp_path: Path) -> None:
    path, link = tmp_path / "new" / "tasks.db", tmp_path / "link.db"
    link.symlink_to(path)
    with closing(lock_database(f"sqlite://{path}", state_dir=tmp_path / "one")):
        with pytest.raises(AlreadyHeld) as refused:
            lock_database(f"sqlite://{link}", state_dir=tmp_path / "two")
        again = str(refused.value)

    assert f"the database {path}" in again
    assert f"pid {os.getpid()}, state directory {tmp_path}/one" in again
    assert [file.name for file in path.parent.iterdir()] == ["tasks.db.lock"]


def test_a_store_in_memory_is_nobody_elses(tmp_path: Path) -> None:
    with (
        closing(lock_database("sqlite://", state_dir=tmp_path)),
        closing(lock_database("sqlite://", state_dir=tmp_path)),
    ):
        assert list(tmp_path.iterdir()) == []
