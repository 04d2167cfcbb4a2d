"""What the daemon refuses to start with: each refusal gives the reason and the remedy."""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pysqlite3 import dbapi2

from tests.e2e.helpers import (
    as_user,
    expect_settled,
    external_executor,
    ordinary_user,
    shell,
    states,
)
from tests.e2e.world import DISPATCHER, World

# Others -----------------------------------------------------------------------------------


def test_a_daemon_that_its_configuration_ends_has_listened_for_no_command(world: World) -> None:
    world.configure(leases={"ttl": 5})

    assert "leases.ttl" in world.cli("run", exits=78).stderr

    assert [] == sorted(world.runtime_dir.glob("control.sock"))
    assert not (world.state_dir / "control-socket").exists()


def test_a_second_node_in_a_runtime_directory_does_not_disturb_the_first(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with world.daemon() as daemon:
        ours, world.state_dir = world.state_dir, tmp_path_factory.mktemp("other")
        world.configure()
        message = world.cli("run", exits=75).stderr
        world.state_dir = ours
        world.configure()
        assert "running" == world.cli("status", "--json").json["daemon"]

    assert f"runtime directory {world.runtime_dir} is in use by pid {daemon.pid}, " in message
    assert f"state directory {ours}" in message


#: Runs a command whose stderr is the journal according to its environment.
_INTO_THE_JOURNAL = 'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$0" "$@"'


@pytest.mark.parametrize("verb", ["run", "executor", "reload"])
def test_in_the_journal_a_refusal_has_the_priority_of_an_error(world: World, verb: str) -> None:
    world.configure(node={"runtime_dir": f"/tmp/{'x' * 200}", "slots": 0})
    world.prefix = ("sh", "-c", _INTO_THE_JOURNAL)

    message = world.cli(verb, exits=78).stderr.splitlines()

    assert 2 == len(message)
    assert all(line.startswith("<3>dispatcher: ") for line in message), message
    assert "at most 107; set [node] runtime_dir to a shorter directory" in "".join(message)


def test_elsewhere_a_refusal_has_no_priority(world: World) -> None:
    world.configure(node={"slots": 0})

    message = world.cli("run", exits=78, env={"JOURNAL_STREAM": "1:1"}).stderr

    assert message.startswith("dispatcher: ")


# The database -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left_behind(
    tmp_path_factory: pytest.TempPathFactory, bytecode: Path
) -> Callable[[World], Path]:
    """Put what a daemon left into a world: a state directory with one succeeded task."""
    made = World(tmp_path_factory.mktemp("made"), bytecode)
    made.submit("true")
    with made.daemon("--drain") as daemon:
        assert 0 == daemon.wait()
    made.close()

    def put(world: World) -> Path:
        shutil.copytree(made.state_dir, world.state_dir)
        return world.state_dir / "tasks.db"

    return put


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_r50_a_database_that_is_not_what_was_left_is_refused_and_not_touched(
    world: World, left_behind: Callable[[World], Path], damage: str
) -> None:
    database = left_behind(world)
    whole = database.read_bytes()
    if damage == "missing":
        database.unlink()
    else:
        database.write_bytes(whole[: len(whole) // 2])

    messages = [world.cli(*verb, exits=78).stderr for verb in (["run"], ["submit", "--", "true"])]

    assert messages[0] == messages[1]
    assert f"tasks.db is {'missing' if damage == 'missing' else 'damaged'}" in messages[0]
    assert "restore it from a backup" in messages[0]
    assert (whole[: len(whole) // 2] if damage == "truncated" else None) == (
        database.read_bytes() if database.exists() else None
    )


def test_r50_a_database_replaced_under_a_running_daemon_stops_it_and_costs_nothing_once_put_back(
    world: World, left_behind: Callable[[World], Path]
) -> None:
    database = left_behind(world)
    world.configure(executor={"mode": "external"})
    aside = world.directory / "aside"
    aside.mkdir()
    with external_executor(world):
        with world.daemon(alone=False) as daemon:
            task_id = world.submit(*shell("while [ ! -e go ]; do sleep 0.02; done; exit 7"))
            daemon.expect("run.started", task_id=task_id)
            shutil.copy(database, world.directory / "other.db")
            for file in world.state_dir.glob("tasks.db*"):
                file.rename(aside / file.name)
            (world.directory / "other.db").rename(database)
            assert 78 == daemon.wait()
        assert "was replaced or removed while in use" in daemon.output()
        assert "Traceback" not in daemon.output()

        (world.directory / "go").touch()
        for file in world.state_dir.glob("tasks.db*"):
            file.unlink()
        for file in aside.iterdir():
            file.rename(world.state_dir / file.name)
        with world.daemon(alone=False) as daemon:
            daemon.expect("run.settled", task_id=task_id, exit_code=7, fence=1)


def test_r50_a_directory_that_may_not_be_written_is_refused_with_the_remedy(
    world: World, left_behind: Callable[[World], Path]
) -> None:
    user = ordinary_user()
    world.state_dir = world.runtime_dir / "state"  # not below the user's who runs pytest
    world.configure()
    left_behind(world)
    world.runtime_dir.chmod(0o755)
    for path in (world.state_dir, *world.state_dir.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)

    for verb in (["run"], ["submit", "--", "true"]):
        done = subprocess.run(
            [*as_user(user), DISPATCHER, *verb],
            env=world.env,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

        assert (78, "") == (done.returncode, done.stdout)
        assert "ermission denied" in done.stderr
        assert "sudo -u root" in done.stderr, "no remedy"
        assert str(world.state_dir) in done.stderr
        assert "Traceback" not in done.stderr
    world.state_dir.chmod(0o755)


def test_r53_a_database_locked_by_another_is_reported_waited_for_and_nothing_is_lost(
    world: World,
) -> None:
    with world.daemon() as daemon:
        task_id = world.submit(
            *shell("while [ ! -e go ]; do sleep 0.02; done; exit 7"), max_attempts=1
        )
        daemon.expect("run.started", task_id=task_id)
        database = dbapi2.connect(str(world.state_dir / "tasks.db"), isolation_level=None)
        with closing(database):
            database.execute("BEGIN IMMEDIATE")
            (world.directory / "go").touch()
            daemon.expect("store.unavailable")
            refused = world.cli("submit", "--", "true", exits=69)  # it waits for 5 s
            status = world.cli("status", "--json").json
        daemon.expect("store.recovered")
        daemon.expect("run.settled", task_id=task_id, exit_code=7, attempt=1)
        world.submit("true")
        expect_settled(daemon, [2])

    assert "locked" in refused.stderr
    assert ("running", True) == (status["daemon"], status["node"]["store_silent_for_s"] > 3)
    # On a busy host a submit may keep it waiting too: but each outage and its end is logged once.
    events = [event["event"] for event in daemon.events() if event["event"].startswith("store.")]
    assert ["store.unavailable", "store.recovered"] * (len(events) // 2) == events
    assert max(event["silent_for_s"] for event in daemon.events("store.recovered")) > 4
    assert ["failed", "succeeded"] == states(world)
