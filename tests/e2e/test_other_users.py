"""Root in an ordinary user's state directory: every verb becomes that user.

What the user leaves there for root, a link in the place of each file, leads root to no file of its
own.
"""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite3

from tests.e2e.helpers import as_user, external_executor, ordinary_user
from tests.e2e.users import as_root, owned_by
from tests.e2e.world import DISPATCHER, World

pytestmark = pytest.mark.usefixtures("installed")

#: The content of a file that only root may read.
SECRET = "root's\n"

UID = "0123456789abcdef" * 2


@pytest.fixture
def user() -> int:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    return ordinary_user()


@pytest.fixture
def users(world: World, user: int) -> World:
    """The world of a user, in which root types every command."""
    world.state_dir.mkdir()
    owned_by(world, user)
    # If root stayed root, it could write here without the right to write everywhere.
    world.state_dir.chmod(0o777)
    world.prefix = as_root()
    return world


@pytest.fixture
def victim(world: World) -> Iterator[Path]:
    """A file of root's, and that it stayed as it was."""
    victim = world.directory / "roots" / "victim"
    victim.parent.mkdir()
    victim.write_text(SECRET)
    victim.chmod(0o600)
    yield victim
    assert (SECRET, 0, 0o100600) == (
        victim.read_text(),
        victim.stat().st_uid,
        victim.stat().st_mode,
    )
    assert [victim] == list(victim.parent.iterdir())
    assert 0 == victim.parent.stat().st_uid


def owners(world: World) -> dict[str, int]:
    """Return whose each file is that was made in the state and the runtime directory."""
    places = (world.state_dir, world.runtime_dir)
    files = [file for place in places for file in place.rglob("*")]
    return {file.name: file.lstat().st_uid for file in files}


@contextmanager
def typed_by(world: World, prefix: tuple[str, ...]) -> Iterator[None]:
    before, world.prefix = world.prefix, prefix
    yield
    world.prefix = before


# What is made -------------------------------------------------------------------------------


def test_r76_roots_commands_in_a_users_directory_run_as_the_user_who_can_go_on_with_them(
    users: World, user: int
) -> None:
    copy = "state/copy.db"  # from here, as a user may not enter the directories above
    users.directory.chmod(0o755)
    roots = {"TOKEN": "hunter2"}  # of no use to the user, and none of its business
    first = users.cli("submit", "--", "sh", "-c", "id -u; echo $HOME:$USER:$TOKEN", env=roots).id
    with users.daemon("--drain") as daemon:
        daemon.wait()
        changed = daemon.expect("user.changed")
    users.cli("backup", copy)
    users.cli("restore", copy)
    users.cli("list")

    assert f"{user}\n/::\n" == users.cli("logs", first).stdout
    assert (user, f"#{user}", str(users.state_dir)) == (
        changed["user_id"],
        changed["user"],
        changed["path"],
    )
    made = owners(users)
    assert {user} == set(made.values()), made
    assert {
        *("tasks.db", "tasks.db.lock", "store-id", "node-id", "lock", "control-socket", "output"),
        *("executor.journal", "executor.log", "executor.lock", "daemon.lock", "notify", "copy.db"),
    } <= made.keys()
    with typed_by(users, (*as_user(user), f"--regid={user}")):
        users.cli("submit", "--", "true")
        with users.daemon("--drain") as daemon:
            daemon.wait()
            assert [] == daemon.events("user.changed")
        users.cli("backup", "--overwrite", copy)
        assert ["succeeded"] * 2 == [task["state"] for task in users.cli("list", "--json").json]


def test_daemon_and_executor_that_root_starts_apart_become_the_same_user(
    users: World, user: int
) -> None:
    users.configure(executor={"mode": "external"})
    with external_executor(users, prefix=users.prefix):
        with users.daemon(alone=False) as daemon:
            task = users.submit("id", "-u")
            users.until(task, "succeeded")
            assert user == Path(f"/proc/{daemon.pid}/fd").stat().st_uid
        assert f"{user}\n" == users.cli("logs", task).stdout

    lines = (users.directory / "external.log").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    changed = next(event for event in events if event["event"] == "user.changed")
    assert (user, str(users.state_dir)) == (changed["user_id"], changed["path"])
    assert {user} == set(owners(users).values())


def test_directories_that_are_missing_in_a_users_home_are_made_by_that_user(
    world: World, user: int
) -> None:
    home = world.directory / "home"
    home.mkdir(mode=0o700)
    os.chown(home, user, user)
    world.state_dir = home / "state/of/dispatcher"
    world.configure()
    world.prefix = as_root()

    world.cli("submit", "--", "true")

    made = {file: file.stat().st_uid for file in home.rglob("*")}
    assert {home / "state", home / "state/of", world.state_dir / "tasks.db"} <= made.keys()
    assert {user} == set(made.values()), made


def test_a_user_with_a_name_has_its_home_its_name_and_its_groups(world: World, user: int) -> None:
    del user
    named = [one for one in pwd.getpwall() if one.pw_uid not in {0, 65534}]
    if not named:
        pytest.skip("no user has a name here")
    known = max(named, key=lambda one: len(os.getgrouplist(one.pw_name, one.pw_gid)))
    world.state_dir.mkdir()
    owned_by(world, known.pw_uid)
    world.prefix = as_root()
    task = world.submit("sh", "-c", "echo $HOME:$USER:$LOGNAME:$(id -u):$(id -g):$(id -G)")

    world.cli("run", "--drain")

    groups = os.getgrouplist(known.pw_name, known.pw_gid)
    home, uid, gid, *others = world.cli("logs", task).stdout.strip().rsplit(":", 3)
    assert f"{known.pw_dir}:{known.pw_name}:{known.pw_name}" == home
    assert (known.pw_uid, known.pw_gid) == (int(uid), int(gid))
    assert set(groups) == set(map(int, others[0].split()))


# What a user leaves for root ------------------------------------------------------------------


def test_a_link_in_the_place_of_the_daemons_announcement_leads_root_nowhere(
    users: World, victim: Path
) -> None:
    users.cli("list")
    (users.state_dir / "control-socket").symlink_to(victim)

    users.cli("run", "--drain")


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("tasks.db.lock", "migrate"),
        ("lock", "run --drain"),
        ("executor.lock", "executor"),
        ("executor.journal.new", ""),
        ("executor.log", ""),
    ],
)
def test_a_link_in_the_place_of_a_lock_or_a_log_leads_root_nowhere(
    users: World, victim: Path, name: str, typed: str
) -> None:
    users.cli("list")
    (users.state_dir / name).symlink_to(victim)
    if name == "executor.log":
        with users.daemon() as daemon:
            daemon.expect("daemon.waiting")
    elif name == "executor.journal.new":  # which its owner may remove
        with external_executor(users, prefix=users.prefix), users.daemon(alone=False):
            users.until(users.submit("true"), "succeeded")
    else:
        assert name in users.cli(*typed.split(), exits=78).stderr


def test_a_database_that_is_a_link_to_no_file_makes_none(users: World, victim: Path) -> None:
    (users.state_dir / "tasks.db").symlink_to(victim.parent / "new" / "x.db")

    message = users.cli("list", exits=78).stderr

    assert "Permission denied" in message
    assert f"this process became uid {users.state_dir.stat().st_uid}, because" in message


def test_a_state_directory_that_is_a_users_link_to_roots_makes_nothing_there(
    world: World, user: int, victim: Path
) -> None:
    world.state_dir.symlink_to(victim.parent)
    os.chown(world.state_dir, user, user, follow_symlinks=False)
    world.prefix = as_root()

    assert "Permission denied" in world.cli("submit", "--", "true", exits=78).stderr


def test_a_lock_next_to_an_old_backup_that_is_a_link_is_not_followed_by_root_either(
    world: World, user: int, victim: Path
) -> None:
    """The state directory is root's here, and the backup in a user's."""
    home = world.directory / "home"
    home.mkdir()
    world.submit("true")
    world.cli("backup", home / "b.db")
    os.chown(home, user, user)
    (home / "b.db.lock").symlink_to(victim)

    message = world.cli("backup", "--overwrite", home / "b.db", exits=78).stderr

    assert "b.db.lock" in message


def test_r76_no_file_is_removed_where_a_users_link_leads(users: World, victim: Path) -> None:
    roots = victim.parent / f"{UID}.log"
    roots.write_text(SECRET)
    _name_as_output(users, str(roots))
    (users.state_dir / "output").rename(users.state_dir / "before")
    (users.state_dir / "output").symlink_to(victim.parent)

    users.cli("prune", "--older-than", "1ms", "--state", "succeeded")

    assert SECRET == roots.read_text()
    roots.unlink()


def test_a_row_makes_only_a_runs_output_removed_whatever_it_names(world: World) -> None:
    world.cli("submit", "--", "true")
    important = world.state_dir / "output" / "important"
    _name_as_output(world, "/important")
    important.write_text(SECRET)

    world.cli("prune", "--older-than", "1ms", "--state", "succeeded")

    assert [] == world.cli("list", "--json").json
    assert SECRET == important.read_text()


def _name_as_output(world: World, path: str) -> None:
    """Claim in the row of a run that is over that its output is there."""
    world.cli("submit", "--", "true")
    world.cli("run", "--drain")
    with closing(sqlite3.connect(world.database, isolation_level=None)) as store:
        store.execute("UPDATE runs SET output_path = ?", (path,))


# What only root may ---------------------------------------------------------------------------


def test_a_file_that_only_root_may_write_is_denied_with_the_name_of_the_user(
    users: World, user: int, victim: Path
) -> None:
    users.cli("submit", "--", "true")

    for verb, *options in (
        ("backup", victim.parent / "b.db"),
        ("metrics", "--textfile", victim.parent / "m.prom"),
        ("claim", "--lock-file", victim.parent / "lock"),
    ):
        message = users.cli(verb, *options, exits=1).stderr.splitlines()

        assert "Permission denied" in message[0]
        became = f"this process became uid {user}, because {users.state_dir} belongs to that user"
        assert [f"dispatcher: {became}"] == message[1:]
    assert "ready" == users.show(1)["state"]


def test_a_configuration_that_only_root_may_read_is_read_before(users: World) -> None:
    users.config_file.chmod(0o600)
    os.chown(users.config_file, 0, 0)

    assert [] == users.cli("list", "--json").json


def test_verbs_that_open_no_store_stay_roots(users: World) -> None:
    for verb in ("config", "check-config", "completion bash"):
        users.cli(*verb.split())

    assert {} == owners(users)


def test_root_that_may_not_become_the_user_is_refused_with_the_remedy(
    users: World, user: int
) -> None:
    command = ["setpriv", "--bounding-set=-setuid", DISPATCHER]
    for typed in ("list", "run --drain", "doctor"):
        done = subprocess.run(
            [*command, *typed.split()], env=users.env, capture_output=True, text=True, check=False
        )

        assert 78 == done.returncode, done
        assert done.stderr == (
            f"dispatcher: the state directory {users.state_dir} belongs to uid {user}, and root"
            f" does not work in another user's directory: sudo -u '#{user}' dispatcher ...\n"
        )
    assert {} == owners(users)


def test_a_user_who_cannot_load_the_code_is_named_with_what_it_cannot_read(
    users: World, user: int, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    hidden = tmp_path / "python"
    hidden.symlink_to(sys.executable)
    command = [hidden, "-m", "dispatcher", "list"]
    env = {**users.env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert 78 == done.returncode, done
    assert f"{users.state_dir} belongs to uid {user}, who cannot read {hidden}" in done.stderr
