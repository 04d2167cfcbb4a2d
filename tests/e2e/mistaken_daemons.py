"""Mistakes that only real processes can make: two daemons, another's executor, other users."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.helpers import as_user, external_executor, fill, ordinary_user, small_disk
from tests.e2e.mistaken import as_installed, remount
from tests.e2e.users import as_root, owned_by
from tests.e2e.world import DISPATCHER, Result, World


def as_written(world: World, text: str) -> str:
    """Return a message of `world` in the form of the table."""
    return as_installed(
        text,
        {
            world.config_file: "/etc/dispatcher/dispatcher.toml",
            world.directory / "other": "/srv/other",
            world.directory / "state": "/var/lib/dispatcher",
            world.runtime_dir: "/run/dispatcher",
            world.directory: "/home/me",
        },
    )


def second_daemon(world: World) -> Result:
    """`run` while one is running."""
    with world.daemon():
        return world.cli("run", exits=75)


def second_in_background(world: World) -> Result:
    """`run --detach` while one is running."""
    with world.daemon():
        return world.cli("run", "--detach", exits=75)


def reload_other_file(world: World) -> Result:
    """`reload` with another file than the one that the daemon reads."""
    other = world.directory / "new.toml"
    other.write_text(world.config_file.read_text())
    with world.daemon():
        return world.cli("reload", "--config", other, exits=1)


def second_on_database(world: World) -> Result:
    """`run` with a state directory of its own, on a database that a daemon has."""
    with world.daemon():
        _move(
            world,
            store={"url": f"sqlite://{world.directory}/state/tasks.db"},
            node={"runtime_dir": f"{world.runtime_dir}/other"},
        )
        return world.cli("run", exits=75)


def second_in_runtime_dir(world: World) -> Result:
    """`run` with a state directory of its own, in the runtime directory of another daemon."""
    with world.daemon():
        _move(world)
        return world.cli("run", exits=75)


def other_executor(world: World) -> Result:
    """`run` where the executor of another node listens."""
    world.configure(executor={"mode": "external"})
    with external_executor(world):
        with world.daemon(alone=False) as daemon:
            daemon.expect("executor.connected")
        _move(world, executor={"mode": "external"})
        return world.cli("run", exits=78)


def second_executor(world: World) -> Result:
    """`executor` while one is running."""
    world.configure(executor={"mode": "external"})
    with external_executor(world):
        with world.daemon(alone=False) as daemon:
            daemon.expect("executor.connected")
        refused = world.cli("executor", exits=75)
    return Result(refused.exit_code, "", json.loads(refused.stderr)["error"])


def journal_directory(world: World) -> Result:
    """`executor` where a directory has its journal's name."""
    journal = world.state_dir / "executor.journal"
    journal.mkdir(parents=True)
    refused = world.cli("executor", exits=78)
    journal.rmdir()
    return Result(refused.exit_code, "", json.loads(refused.stderr)["error"])


def other_store(world: World) -> Result:
    """`run` on another store while runs of the one before live."""
    world.configure(executor={"mode": "external"})
    with external_executor(world):
        with world.daemon(alone=False) as daemon:
            daemon.expect("run.started", task_id=world.submit("sleep", "60"))
        _move(world)
        world.submit("true")
        world.state_dir = world.directory / "state"
        world.configure(
            executor={"mode": "external"},
            store={"url": f"sqlite://{world.directory}/other/tasks.db"},
        )
        return world.cli("run", exits=78)


def reload_mistake(world: World) -> Result:
    """`reload` with a mistake in the file."""
    with world.daemon():
        file = world.config_file
        file.write_text(file.read_text().replace("slots = 4", "slots = 0"))
        return world.cli("reload", exits=78)


def no_runtime_dir(world: World) -> Result:
    """`run` with a runtime directory that cannot be made."""
    world.configure(node={"runtime_dir": "/proc/dispatcher"})
    return world.cli("run", exits=78)


def output_file(world: World) -> Result:
    """`run` with a file in the place of the output directory."""
    world.state_dir.mkdir()
    (world.state_dir / "output").touch()
    return world.cli("run", exits=78)


def socket_taken(world: World) -> Result:
    """`run` with a directory in the place of the control socket."""
    (world.runtime_dir / "control.sock").mkdir(parents=True)
    return world.cli("run", exits=78)


def full_at_start(world: World) -> Result:
    """`run` where the disk has no room for the first file."""
    with small_disk(world, "state") as disk:
        fill(disk, "files")
        return world.cli("run", exits=69)


def read_only_at_start(world: World) -> Result:
    """`run` where nothing can be written."""
    with small_disk(world, "state") as disk:
        remount(disk, "ro")
        return world.cli("run", exits=75)


def other_owner(world: World) -> Result:
    """`run` with a runtime directory that belongs to another user."""
    user = ordinary_user()
    with tempfile.TemporaryDirectory() as state_dir, _closed(world.runtime_dir):
        os.chown(state_dir, user, -1)
        world.state_dir = Path(state_dir)
        world.configure()
        done = subprocess.run(
            [*as_user(user), DISPATCHER, "run"],
            env=world.env,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    return Result(done.returncode, done.stdout, done.stderr)


@contextmanager
def _closed(directory: Path) -> Iterator[None]:
    directory.chmod(0o555)
    try:
        yield
    finally:
        directory.chmod(0o700)


def _move(world: World, **sections: Mapping[str, object]) -> None:
    """Give the world another state directory."""
    world.state_dir = world.directory / "other"
    world.configure(**sections)


def weak_root(world: World) -> Result:
    """`list` of root in a user's state directory, where root has not all of its rights."""
    user = _users_state(world)
    world.prefix = ("setpriv", "--bounding-set=-setuid")
    return _as_uid_1000(world.cli("list", exits=78), user)


def root_denied(world: World) -> Result:
    """`backup` of root in a user's state directory, to where only root may write."""
    user = _users_state(world)
    world.prefix = as_root()
    world.cli("list")
    return _as_uid_1000(world.cli("backup", world.directory / "copy.db", exits=1), user)


def _users_state(world: World) -> int:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    user = ordinary_user()
    world.state_dir.mkdir()
    owned_by(world, user)
    return user


def _as_uid_1000(result: Result, user: int) -> Result:
    return replace(result, stderr=result.stderr.replace(str(user), "1000"))


SCENES: Mapping[str, Callable[[World], Result]] = {
    scene.__name__.replace("_", " "): scene
    for scene in (
        second_daemon,
        second_in_background,
        reload_other_file,
        second_on_database,
        second_in_runtime_dir,
        other_executor,
        second_executor,
        journal_directory,
        other_store,
        reload_mistake,
        no_runtime_dir,
        output_file,
        socket_taken,
        full_at_start,
        read_only_at_start,
        other_owner,
        weak_root,
        root_denied,
    )
}
