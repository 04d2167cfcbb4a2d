"""The surroundings of a mistake that no command line makes: files, users, disks, locks."""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from shlex import split

import pytest
from pysqlite3 import dbapi2

from dispatcher.cli import app
from dispatcher.client import Client
from dispatcher.store import open as opening
from tests.e2e.helpers import ordinary_user
from tests.e2e.world import Result
from tests.eventually import eventually
from tests.mistakes.kinds import Mistake

#: Seconds that a locked database is waited for here; 5 s at home.
PATIENCE = 0.05


class Place:
    """The directories of one mistake, and the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self._capsys = capsys
        # Not pytest's, where other users may not go and whose names are too long for sockets.
        self.directory = Path(tempfile.mkdtemp(prefix="mistake-"))
        self.directory.chmod(0o755)
        self.state_dir = self.directory / "state"
        self.config_file = self.directory / "dispatcher.toml"
        self.home = self.directory / "home"
        self.home.mkdir()
        monkeypatch.chdir(self.home)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.setenv("STATE_DIRECTORY", str(self.state_dir))
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(self.directory / "run"))
        monkeypatch.setenv("DISPATCHER_CONFIG", str(self.config_file))

    @property
    def database(self) -> Path:
        return self.state_dir / "tasks.db"

    def type(self, line: str, stdin: bytes = b"") -> Result:
        """Run `dispatcher LINE` in this process."""
        self._capsys.readouterr()
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = app.run(split(line))
        return Result(code, *self._capsys.readouterr())

    def as_written(self, text: str) -> str:
        """Return a message in the form of the table."""
        return as_installed(
            text,
            {
                self.config_file: "/etc/dispatcher/dispatcher.toml",
                self.state_dir: "/var/lib/dispatcher",
                self.directory / "run": "/run/dispatcher",
                self.home: "/home/me",
            },
        )

    def make(self, mistake: Mistake) -> Result:
        """Make a mistake; return what came of it."""
        self.config_file.write_text(mistake.config)
        for name, content in mistake.files.items():
            (self.home / name).write_bytes(content)
        around = SCENES[mistake.scene] if mistake.scene else nothing
        for line in mistake.before:
            done = self.type(line)
            assert 0 == done.exit_code, f"{line}: {done}"
        with around(self):
            return self.type(mistake.typed, mistake.stdin)

    def close(self) -> None:
        shutil.rmtree(self.directory)


def as_installed(text: str, paths: Mapping[Path, str]) -> str:
    """Return messages as the table has them: no prefix, the paths of an installed host, no chance.

    Values that differ from run to run become pid 4711, a UUID of noughts, and 1 August 2026.
    """
    lines = [line.removeprefix("dispatcher: ") for line in text.splitlines()]
    shown = "\n".join(lines).replace(f"{PATIENCE} s", "5 s")
    for path, named in paths.items():
        shown = shown.replace(str(path), named)
    shown = re.sub(r"\bpid \d+", "pid 4711", shown)
    shown = re.sub(r"-inum \d+", "-inum 4711", shown)
    shown = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z?", "2026-08-01T12:00:00Z", shown)
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0" * 8 + "-…", shown)


def nothing(place: Place) -> AbstractContextManager[None]:
    """Leave everything as it is."""
    del place
    return nullcontext()


# Users ------------------------------------------------------------------------------------


@contextmanager
def _other_user(place: Place, *, owns: Path | None = None) -> Iterator[None]:
    """Be an ordinary user in this process, who owns a directory and what is in it.

    Modules that are imported late are imported before.
    """
    place.type("check-config")
    place.type("config")
    import_module("grp")
    before, user = os.geteuid(), ordinary_user()
    for path in () if owns is None else (owns, *owns.rglob("*")):
        os.chown(path, user, -1)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(before)


@contextmanager
def _mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


@contextmanager
def _unreadable_configuration(place: Place) -> Iterator[None]:
    with _mode(place.config_file, 0o000), _other_user(place):
        yield


@contextmanager
def _read_only(place: Place) -> Iterator[None]:
    with ExitStack() as modes:
        for file in place.state_dir.iterdir():
            modes.enter_context(_mode(file, 0o555 if file.is_dir() else 0o444))
        modes.enter_context(_mode(place.state_dir, 0o555))
        modes.enter_context(_other_user(place, owns=place.state_dir))
        yield


@contextmanager
def _of_another_user(place: Place) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it becomes another user")
    with _mode(place.directory, 0o755), _mode(place.state_dir, 0o700), _other_user(place):
        yield


@contextmanager
def _forbidden(place: Place) -> Iterator[None]:
    with _mode(place.directory, 0o555), _other_user(place):
        yield


# Disks ------------------------------------------------------------------------------------


@contextmanager
def _disk(place: Place, size: str) -> Iterator[None]:
    """Give the state directory a disk of its own, with what it holds."""
    kept = {file.name: file.read_bytes() for file in place.state_dir.glob("*") if file.is_file()}
    place.state_dir.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(place.state_dir)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        for name, content in kept.items():
            (place.state_dir / name).write_bytes(content)
        yield
    finally:
        eventually(lambda: _unmount(place.state_dir))


@contextmanager
def _read_only_disk(place: Place) -> Iterator[None]:
    with _disk(place, "4m"):
        remount(place.state_dir, "ro")
        yield


def remount(directory: Path, option: str) -> None:
    """Mount a directory's disk with another option."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(directory)], check=True)


def _unmount(directory: Path) -> None:
    done = subprocess.run(["umount", directory], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


@contextmanager
def _network(place: Place) -> Iterator[None]:
    mounts = place.directory / "mounts"
    mounts.write_text(
        f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {place.directory} rw - nfs4 h:/d rw\n"
    )
    place.monkeypatch.setitem(opening.open_store.__kwdefaults__, "mountinfo", mounts)
    yield
    place.monkeypatch.undo()


# The database -----------------------------------------------------------------------------


#: Also the oldest version that may use it.
_SCHEMA = "UPDATE meta SET value = '{}' WHERE key IN ('schema_version', 'usable_since')"


def _execute(path: Path, statement: str) -> None:
    with closing(dbapi2.connect(str(path), isolation_level=None)) as connection:
        connection.execute(statement)


def _replace(path: Path) -> None:
    path.unlink()
    _execute(path, "CREATE TABLE songs (title)")


@contextmanager
def _locked(place: Place) -> Iterator[None]:
    patience = Client.__init__.__kwdefaults__
    with closing(dbapi2.connect(str(place.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        place.monkeypatch.setitem(patience, "patience", PATIENCE)
        yield
    place.monkeypatch.setitem(patience, "patience", 5.0)


def _first(do: Callable[[Path], object]) -> Callable[[Place], AbstractContextManager[None]]:
    """Return the scene of a database to which this was done."""

    def scene(place: Place) -> AbstractContextManager[None]:
        do(place.database)
        return nullcontext()

    return scene


SCENES: Mapping[str, Callable[[Place], AbstractContextManager[None]]] = {
    "unreadable configuration": _unreadable_configuration,
    "read-only": _read_only,
    "another user's": _of_another_user,
    "forbidden": _forbidden,
    "full disk": lambda place: _disk(place, "400k"),
    "read-only filesystem": _read_only_disk,
    "tiny disk": lambda place: _disk(place, "32k"),
    "network filesystem": _network,
    "locked": _locked,
    "truncated": _first(lambda path: os.truncate(path, path.stat().st_size // 2)),
    "emptied": _first(lambda path: os.truncate(path, 0)),
    "removed": _first(Path.unlink),
    "replaced": _first(_replace),
    "newer": _first(lambda path: _execute(path, _SCHEMA.format(99))),
    "older": _first(lambda path: _execute(path, _SCHEMA.format(0))),
    "second name": _first(lambda path: path.with_name("again.db").hardlink_to(path)),
    "directory": _first(lambda path: path.mkdir(parents=True)),
    "damaged node-id": _first(lambda path: path.with_name("node-id").write_text("node 1\n")),
}
