"""A daemon for people without a service manager: `run --detach`, `stop` and `restart`."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from dispatcher.host import background
from tests.e2e.helpers import expect_file, is_alive, shell
from tests.e2e.test_notify import Manager, manager  # noqa: F401 - a fixture
from tests.e2e.world import DISPATCHER, World
from tests.eventually import eventually

#: It ends itself once it may.
WILLING = "echo $$ >> began; until [ -e go ]; do sleep 0.02; done"


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.cli("status", "--json").json
    return found


def log(world: World) -> Path:
    return world.state_dir / "daemon.log"


def test_it_is_started_shown_and_stopped(world: World) -> None:
    started = world.cli("run", "--detach").stdout
    first = status(world)
    pid = first["daemon_pid"]
    assert ("ok", []) == (first["health"], first["degraded"])
    world.cli("submit", "--wait", "--", "true")
    shown = world.cli("status").stdout.splitlines()
    stopped = world.cli("stop").stdout

    assert f"the daemon runs: pid {pid}, log {log(world)}\n" == started
    assert shown[0].startswith(f"daemon    running (pid {pid}), started ")
    assert f"config    {world.config_file}" == shown[1]
    assert f"the daemon has stopped (pid {pid})\n" == stopped
    assert (0o100600, "daemon.stopped") == (
        log(world).stat().st_mode,
        json.loads(log(world).read_text().splitlines()[-1])["event"],
    )
    world.expect_nobody()
    assert "no daemon runs here\n" == world.cli("stop").stdout


def test_it_has_no_terminal_no_directory_and_no_descriptor_of_the_command_that_started_it(
    world: World,
) -> None:
    world.cli("run", "--detach", stdin="typed", env={"NOTIFY_SOCKET": "@nobody"})
    daemon = psutil.Process(status(world)["daemon_pid"])

    assert (daemon.pid, "/") == (os.getsid(daemon.pid), daemon.cwd())
    leads = [os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in range(3)]
    assert [os.devnull, str(log(world)), str(log(world))] == leads
    assert not status(world)["node"]["managed"]
    world.cli("stop")


def test_a_second_one_is_refused_and_the_first_goes_on(world: World) -> None:
    world.cli("run", "--detach")
    pid = status(world)["daemon_pid"]

    refused = world.cli("run", "--detach", exits=75).stderr

    assert f"the daemon runs already (pid {pid}); dispatcher restart replaces it" in refused
    assert pid == status(world)["daemon_pid"]
    world.cli("stop")


def test_the_reason_why_it_cannot_start_is_printed_with_its_exit_code(world: World) -> None:
    world.state_dir.mkdir()
    (world.state_dir / "output").touch()

    failed = world.cli("run", "--detach", exits=78)

    assert "" == failed.stdout
    assert "cannot make the output directory" in failed.stderr
    assert "{" not in failed.stderr
    world.expect_nobody()


@pytest.mark.parametrize("what", ["directory", "link"])
def test_a_log_that_is_not_a_regular_file_is_refused(world: World, what: str) -> None:
    world.state_dir.mkdir()
    victim = world.directory / "victim"
    victim.touch()
    if what == "link":
        log(world).symlink_to(victim)
    else:
        log(world).mkdir()

    refused = world.cli("run", "--detach", exits=78).stderr

    assert f"cannot use {log(world)}: " in refused
    assert "move away what is there" in refused
    assert "" == victim.read_text()


def test_a_drain_in_the_background_ends_by_itself(world: World) -> None:
    task_id = world.submit(*shell(WILLING))
    world.cli("run", "--detach", "--drain")
    expect_file(world, "began")
    (world.directory / "go").touch()
    world.until(task_id, "succeeded")
    world.expect_nobody()


def test_a_stop_waits_for_the_runs_and_the_status_shows_it(world: World) -> None:
    world.configure(daemon={"drain_timeout": "1h"})
    world.cli("run", "--detach")
    task_id = world.submit(*shell(WILLING), max_attempts=1)
    expect_file(world, "began")
    command = world.process_of(
        [*world.prefix, DISPATCHER, "stop"], env=world.env, cwd=world.directory
    )

    def draining() -> None:
        shown = world.cli("status").stdout
        assert shown.startswith("daemon    draining (pid "), shown
        assert " ends what runs in 3" in shown.splitlines()[0]

    eventually(draining)
    assert command.poll() is None
    (world.directory / "go").touch()
    assert 0 == command.wait()
    assert "succeeded" == world.show(task_id)["state"]
    world.expect_nobody()


def test_a_stop_names_what_it_waits_for(world: World) -> None:
    world.configure(daemon={"drain_timeout": "0s"}, leases={"kill_grace": "300ms"})
    world.cli("run", "--detach")
    task_id = world.submit(*shell("trap '' TERM; echo $$ >> began; while :; do sleep 9; done"))
    expect_file(world, "began")

    stopped = world.cli("stop")

    assert "waits up to 0 s for its 1 runs, then ends them, and they run again" in stopped.stderr
    task = world.show(task_id)
    assert ("ready", 0, "released") == (
        task["state"],
        task["attempts_used"],
        task["runs"][0]["outcome"],
    )
    world.expect_nobody()


def test_a_stop_now_ends_the_runs_at_once(world: World) -> None:
    world.configure(daemon={"drain_timeout": "1h"}, leases={"kill_grace": "1h"})
    world.cli("run", "--detach")
    task_id = world.submit(*shell("trap '' TERM; echo $$ >> began; while :; do sleep 9; done"))
    expect_file(world, "began")

    world.cli("stop", "--now")

    assert "released" == world.show(task_id)["runs"][0]["outcome"]
    world.expect_nobody()


def test_a_stop_that_leaves_the_runs_and_a_restart_cost_no_work(world: World) -> None:
    world.cli("run", "--detach")
    task_id = world.submit(*shell(WILLING), max_attempts=1)
    worker = psutil.Process(int(expect_file(world, "began", lines=1)[0]))
    first = status(world)["daemon_pid"]

    stopped = world.cli("stop", "--leave").stdout
    assert f"the daemon has stopped (pid {first}); its run goes on\n" == stopped
    assert is_alive(worker)
    left = world.cli("stop").stdout
    world.cli("run", "--detach")
    second = status(world)["daemon_pid"]
    restarted = world.cli("restart").stdout.splitlines()
    third = status(world)["daemon_pid"]

    assert "no daemon runs here; its executor (pid " in left
    assert f"the daemon has stopped (pid {second}); its run goes on" == restarted[0]
    assert restarted[1].startswith(f"the daemon runs: pid {third}, log ")
    assert 3 == len({first, second, third})
    assert is_alive(worker)
    (world.directory / "go").touch()
    task = world.until(task_id, "succeeded")
    assert (1, 1) == (len(task["runs"]), task["fence"])
    world.cli("stop")
    world.expect_nobody()


def test_a_stop_that_leaves_runs_as_configured_reports_them(world: World) -> None:
    world.configure(daemon={"on_stop": "leave"})
    world.cli("run", "--detach")
    idle = world.cli("restart").stdout.splitlines()[0]
    for _ in range(2):
        world.submit(*shell(WILLING), max_attempts=1)
    expect_file(world, "began", lines=2)
    pid = status(world)["daemon_pid"]

    assert idle.endswith(")")
    assert f"the daemon has stopped (pid {pid}); its 2 runs go on\n" == world.cli("stop").stdout
    world.cli("run", "--detach")
    world.cli("stop", "--now")
    world.expect_nobody()


def test_a_restart_starts_one_where_none_runs(world: World) -> None:
    started = world.cli("restart").stdout

    assert started.startswith("the daemon runs: pid ")
    world.cli("stop")


def test_a_restart_takes_the_file_of_the_running_daemon_unless_one_is_named(world: World) -> None:
    other = world.directory / "other.toml"
    other.write_text(world.config_file.read_text().replace("slots = 4", "slots = 3"))
    unnamed = {**world.env, "DISPATCHER_CONFIG": ""}
    places = world.config_file.read_text().replace("slots = 4", "slots = 2")
    own = world.directory / ".config" / "dispatcher" / "dispatcher.toml"
    own.parent.mkdir(parents=True)
    own.write_text(places)

    world.cli("run", "--detach", "--config", other)
    world.cli("restart", env=unnamed)
    kept = status(world)["node"]
    world.cli("restart", "--config", world.config_file)
    named = status(world)["node"]
    world.cli("stop")

    assert (str(other), 3) == (kept["config_file"], kept["slots"])
    assert (str(world.config_file), 4) == (named["config_file"], named["slots"])


def test_a_restart_with_a_mistake_in_the_file_stops_nothing(world: World) -> None:
    world.cli("run", "--detach")
    pid = status(world)["daemon_pid"]
    right = world.config_file.read_text()
    world.config_file.write_text(right + "[leasse]\n")

    refused = world.cli("restart", exits=78).stderr
    world.config_file.write_text(right)

    assert "leasse: unknown section" in refused
    assert pid == status(world)["daemon_pid"]
    world.cli("stop")


def test_a_daemon_of_a_service_manager_is_left_to_it(
    world: World,
    manager: Manager,  # noqa: F811 - the fixture
) -> None:
    with world.daemon(env=manager.env) as daemon:
        for verb in ("stop", "restart"):
            refused = world.cli(verb, exits=1).stderr
            assert f"a service manager started this daemon (pid {daemon.pid})" in refused
        assert status(world)["node"]["managed"]
        assert daemon.process.poll() is None


def test_a_daemon_in_the_foreground_is_stopped_too(world: World) -> None:
    with world.daemon() as daemon:
        world.cli("stop")
        assert 0 == daemon.wait()


def test_two_options_that_contradict_are_refused(world: World) -> None:
    refused = world.cli("stop", "--now", "--leave", exits=2).stderr

    assert "--leave lets runs go on, --now ends them; give one" in refused


# Which file ---------------------------------------------------------------------------------


def test_a_reload_with_another_file_than_the_daemons_names_both_and_changes_nothing(
    world: World,
) -> None:
    other = world.directory / "other.toml"
    other.write_text(world.config_file.read_text().replace("slots = 4", "slots = 9"))
    link = world.directory / "link.toml"
    link.symlink_to(world.config_file)
    with world.daemon() as daemon:
        refused = world.cli("reload", "--config", other, exits=1).stderr
        same = world.cli("reload", "--config", link).stdout

        assert f"nothing was reloaded: the daemon reads {world.config_file} (" in refused
        assert f"dispatcher reload --config {world.config_file}), not {other}" in refused
        assert f"dispatcher restart --config {other}" in refused
        assert "nothing changed\n" == same
        assert 1 == len(daemon.events("config.reloaded"))


def test_a_daemon_without_a_file_takes_up_the_one_that_appears(world: World) -> None:
    state, config = world.directory / "s", world.directory / "c"
    runtime = world.runtime_dir
    world.env |= {
        "DISPATCHER_CONFIG": "",
        "XDG_STATE_HOME": str(state),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(config),
    }
    if world.cli("config", "--json").json["node.state_dir"]["from"] == "file":
        pytest.skip("this host has a configuration")
    world.cli("run", "--detach")
    before = world.cli("status").stdout.splitlines()[1]
    own = config / "dispatcher" / "dispatcher.toml"
    own.parent.mkdir(parents=True)
    own.write_text("[node]\nslots = 77\n")

    reloaded = world.cli("reload").stdout
    after = world.cli("status").stdout.splitlines()[1]
    world.cli("stop")

    assert "config    built-in defaults: no file" == before
    assert "node.slots: " in reloaded
    assert f"config    {own}" == after
    world.expect_nobody()


# Its log ------------------------------------------------------------------------------------


def test_a_full_log_becomes_the_one_before_and_no_line_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MOST_LOG", 10)
    file = tmp_path / "daemon.log"
    output = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    second = os.dup(output)
    try:
        for number in range(4):
            os.write(output, b"%d: a line\n" % number)
            background.bound_log(file, {output, second})
            os.write(second, b"%d\n" % number)
            background.bound_log(file, {output, second})
    finally:
        os.close(output)
        os.close(second)

    before = file.with_name("daemon.log.1")
    assert ("2\n3: a line\n", "3\n") == (before.read_text(), file.read_text())
    assert {0o600} == {stat.S_IMODE(one.stat().st_mode) for one in (file, before)}
