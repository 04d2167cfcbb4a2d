"""Names in the runtime directory: kept while somebody removes, replaces or takes them."""

import errno
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dispatcher.errors import ConfigError, HostTrouble
from dispatcher.executor.bootstrap import lock_directory
from dispatcher.host import sockets
from dispatcher.host.locks import FileLock, holder_of, lock_file
from dispatcher.host.runtime_directory import (
    LOOK_INTERVAL,
    BoundSocket,
    Look,
    RuntimeDirectory,
    make,
)
from dispatcher.times import Instant

NOW = Instant(1000.0)


class Ours:
    """A process with one socket in its runtime directory, and what it adopts."""

    def __init__(self, above: Path) -> None:
        (above / "state").mkdir()
        self.above = above / "above"
        self.directory = self.above / "run"
        self.directory.mkdir(0o700, parents=True)
        lock = partial(lock_file, self.directory / "daemon.lock", "the directory", holder="ours")
        self.runtime = RuntimeDirectory(
            self.directory,
            lock(),
            lock_path=self.directory / "daemon.lock",
            lock=lock,
            state_dir=above / "state",
        )
        self.path = self.directory / "sock"
        self.before: list[socket.socket] = []
        path = str(self.path)
        self.socket = BoundSocket(path, listen, lambda _, before: self.before.append(before))

    def look(self) -> Look:
        return self.runtime.look([self.socket], at=NOW)

    def answers(self) -> bool:
        """Return whether the socket that listens now is the one at the path."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self.path))
            self.socket.socket.accept()[0].close()
            return True

    def close(self) -> None:
        for one in (*self.before, self.socket.socket):
            one.close()
        self.runtime.release()


listen = partial(sockets.listen, backlog=1)


@pytest.fixture
def ours() -> Iterator[Ours]:
    above = Path(tempfile.mkdtemp(prefix="kept-"))
    ours = Ours(above)
    yield ours
    ours.close()
    shutil.rmtree(above)


def remove_all(ours: Ours) -> None:
    shutil.rmtree(ours.directory)


def remove_the_parent(ours: Ours) -> None:
    shutil.rmtree(ours.above)


def remove_the_socket(ours: Ours) -> None:
    ours.path.unlink()


def bind_another(ours: Ours) -> None:
    ours.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(ours.path))


def make_it_anew(ours: Ours) -> None:
    shutil.rmtree(ours.directory)
    ours.directory.mkdir()


ALL = ("daemon.lock", "sock")


@pytest.mark.parametrize(
    ("damage", "restored"),
    [
        (remove_all, ALL),
        (remove_the_parent, ALL),
        (make_it_anew, ALL),
        (remove_the_socket, ("sock",)),
        (bind_another, ("sock",)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_removed_or_replaced_file_is_made_again_at_the_next_look(
    ours: Ours, damage: Callable[[Ours], None], restored: tuple[str, ...]
) -> None:
    damage(ours)

    assert Look(restored=restored) == ours.look()
    assert Instant(NOW + LOOK_INTERVAL) == ours.runtime.due
    assert ours.answers()
    assert 0o600 == stat.S_IMODE(ours.path.stat().st_mode)
    assert 1 == len(ours.before)
    assert Look() == ours.look()


@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_a_directory_that_was_removed_is_as_private_as_it_was(ours: Ours, mode: int) -> None:
    """Workers that became another user need 0711, whichever user starts the dispatcher."""
    ours.directory.chmod(mode)
    ours.look()
    remove_all(ours)

    ours.look()

    assert mode == stat.S_IMODE(ours.directory.stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory another user's")
def test_the_directory_of_another_user_is_not_used_and_ours_is_made_ours_again(ours: Ours) -> None:
    make_it_anew(ours)
    os.chown(ours.directory, 4711, 4711)
    os.chown(ours.above, 4712, 4712)

    assert Look(lost=f"{ours.directory}: made anew by user 4711, and was user 0's") == ours.look()
    assert [] == list(ours.directory.iterdir())
    remove_all(ours)
    assert Look(restored=ALL) == ours.look()
    assert 0 == ours.directory.stat().st_uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link another user's")
def test_the_link_of_another_user_is_not_followed_though_it_leads_to_what_is_ours(
    ours: Ours,
) -> None:
    ours_too = ours.above / "ours"
    ours_too.mkdir(0o755)
    remove_all(ours)
    ours.directory.symlink_to("ours")
    os.lchown(ours.directory, 4711, 4711)

    assert Look(lost=f"{ours.directory}: made anew by user 4711, and was user 0's") == ours.look()
    assert [] == list(ours_too.iterdir())
    assert 0o755 == stat.S_IMODE(ours_too.stat().st_mode)


def test_no_lock_follows_a_link(ours: Ours) -> None:
    victim = ours.above / "victim"
    for lock in ("daemon.lock", "executor.lock"):
        (ours.directory / lock).unlink(missing_ok=True)
        (ours.directory / lock).symlink_to(victim)

    with pytest.raises(ConfigError):
        lock_file(ours.directory / "daemon.lock", "the directory")
    with pytest.raises(ConfigError):
        lock_directory(str(ours.directory))
    assert not victim.exists()


def test_the_lock_of_a_new_directory_keeps_others_out_again(ours: Ours) -> None:
    (ours.directory / "daemon.lock").unlink()

    assert Look(restored=("daemon.lock",)) == ours.look()
    assert os.getpid() == holder_of(ours.directory / "daemon.lock")
    assert ours.before == []


def test_a_directory_that_another_process_has_locked_is_not_taken_from_it(ours: Ours) -> None:
    make_it_anew(ours)
    other = lock_file(ours.directory / "daemon.lock", "the directory", holder="another's")

    look = ours.look()

    assert look.lost is not None
    assert f"in use by pid {os.getpid()}, another's" in look.lost
    assert not ours.path.exists()
    assert Look() == ours.look()
    other.close()
    assert Look(restored=ALL) == ours.look()
    assert ours.answers()


def test_a_directory_that_cannot_be_made_is_reported_once_and_tried_again(ours: Ours) -> None:
    remove_the_parent(ours)
    ours.above.touch()

    first, second = ours.look(), ours.look()

    assert Look(lost=f"{ours.directory}: Not a directory") == first
    assert Look() == second
    assert first.lost == ours.runtime.trouble
    ours.above.unlink()
    assert Look(restored=ALL) == ours.look()
    assert ours.runtime.trouble is None


def test_a_socket_for_which_the_disk_has_no_room_is_reported(ours: Ours) -> None:
    remove_all(ours)
    bind, ours.socket.bind = ours.socket.bind, full

    assert Look(lost=f"{ours.path}: No space left on device") == ours.look()
    assert ours.before == []
    ours.socket.bind = bind
    assert Look(restored=ALL) == ours.look()


def test_a_socket_that_cannot_be_made_prevents_no_other(ours: Ours) -> None:
    other = BoundSocket(str(ours.directory / "other"), listen)
    remove_all(ours)
    bind, ours.socket.bind = ours.socket.bind, full

    look = ours.runtime.look([ours.socket, other], at=NOW)

    assert Look(lost=f"{ours.path}: No space left on device") == look
    assert other.is_there
    ours.socket.bind = bind
    restored = ours.runtime.look([ours.socket, other], at=NOW).restored
    assert ("daemon.lock", "other", "sock") == restored
    other.socket.close()


def test_no_state_directory_is_made_for_the_sake_of_sockets_in_it(ours: Ours) -> None:
    state = ours.above.parent / "state"
    state.rmdir()
    remove_all(ours)

    assert Look(lost=f"{state}: No such file or directory") == ours.look()
    assert not ours.directory.exists()


def test_a_directory_that_is_removed_before_it_is_looked_after_is_trouble_and_no_mistake(
    ours: Ours,
) -> None:
    """A start that met a removal ended with 78, for good under a service manager."""
    lock = ours.directory / "daemon.lock"
    remove_all(ours)

    with pytest.raises(HostTrouble, match="its directory was just removed: try again"):
        lock_file(lock, "the directory")
    with pytest.raises(HostTrouble, match="its directory was just removed: try again"):
        RuntimeDirectory(
            ours.directory,
            FileLock(None),
            lock_path=lock,
            lock=lambda: FileLock(None),
            state_dir=ours.above,
        )
    remove_the_parent(ours)
    ours.above.touch()
    with pytest.raises(HostTrouble, match="Not a directory; its directory was just removed"):
        lock_file(lock, "the directory")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_the_target_of_a_link_is_made_again_as_the_directory_is(tmp_path: Path, below: str) -> None:
    (tmp_path / "real" / below).mkdir(0o711, parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to("real")
    directory = tmp_path / "link" / below
    directory.chmod(0o711)
    lock = partial(lock_file, directory / "lock", "it")
    runtime = RuntimeDirectory(
        directory, lock(), lock_path=directory / "lock", lock=lock, state_dir=tmp_path
    )
    shutil.rmtree(tmp_path / "real")

    look = runtime.look([], at=NOW)
    runtime.release()

    assert Look(restored=("lock",)) == look
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / below / "lock").exists()
    assert 0o711 == stat.S_IMODE(directory.stat().st_mode)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_link_that_leads_to_nothing_is_named_with_its_target(ours: Ours, below: str) -> None:
    link = ours.directory / "link"
    link.symlink_to("nothing")

    with pytest.raises(FileExistsError, match=f"{link} is a link to nothing, which is missing"):
        make(link / below)

    remove_all(ours)
    ours.directory.symlink_to("elsewhere")
    lost = ours.look().lost
    assert lost is not None
    assert "is a link to elsewhere, which is missing" in lost
    assert not (ours.above / "elsewhere").exists()


def test_a_directory_whose_parents_are_removed_while_it_is_made_is_reported(ours: Ours) -> None:
    class Removed(type(Path())):  # type: ignore[misc] - 3.11 has no other way
        def mkdir(self, *_: object, **__: object) -> None:
            raise FileExistsError(errno.EEXIST, "File exists", str(self / "gone"))

    with pytest.raises(HostTrouble, match="its directory was just removed: try again"):
        make(Removed(ours.directory))
    with pytest.raises(FileExistsError):
        make(ours.path)


def test_a_lock_names_its_holder_as_long_as_that_holds_it(tmp_path: Path) -> None:
    held = lock_file(tmp_path / "lock", "it")
    assert os.getpid() == holder_of(tmp_path / "lock")

    held.close()
    assert None is holder_of(tmp_path / "lock")
    assert None is holder_of(tmp_path / "no")


def full(path: str) -> socket.socket:
    raise OSError(28, "No space left on device", path)
