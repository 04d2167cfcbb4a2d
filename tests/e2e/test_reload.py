"""SIGHUP and `dispatcher reload`: the file is read again, whole or not at all."""

import json
import os
import signal
from functools import partial

import pytest

from tests.e2e.helpers import external_executor, listed, shell, states, stored, submit_all
from tests.e2e.test_notify import Manager, manager  # noqa: F401 - a fixture
from tests.e2e.world import Daemon, World
from tests.eventually import eventually


def test_r64_reload_under_load_is_whole_or_nothing(
    world: World,
    manager: Manager,  # noqa: F811 - the fixture
) -> None:
    world.configure(node={"slots": 1})
    submit_all(world, *[{"command": ["sleep", "0.1"], "max_attempts": 1}] * 60)
    with world.daemon(env=manager.env) as daemon:
        daemon.expect("run.settled")
        good = world.config_file.read_text()

        # The first half of it is right, and would give more slots.
        world.config_file.write_text(good.replace("slots = 1", "slots = 7") + "[leasse]\n")
        daemon.signal(signal.SIGHUP)
        [mistake] = daemon.expect("config.refused")["mistakes"]
        assert "leasse: unknown section; did you mean 'leases'?" in mistake
        assert [] == daemon.events("config.reloaded")
        world.config_file.write_text(f"{good}x = {'[' * 5_000}{']' * 5_000}\n")
        before = daemon.output().count("config.refused")
        daemon.signal(signal.SIGHUP)
        eventually(partial(_expect_more, daemon, "config.refused", before))
        assert "is nested too deeply" in daemon.events("config.refused")[-1]["mistakes"][0]

        world.configure(node={"slots": 4}, leases={"ttl": "5s"})
        daemon.signal(signal.SIGHUP)
        event = daemon.expect("config.reloaded")
        assert {
            "node.slots": {"old": "1", "new": "4"},
            "leases.ttl": {"old": "1m", "new": "5s"},
            "leases.reap_interval": {"old": "5s", "new": "2500ms"},
        } == event["changed"]
        assert {} == event["kept"]
        for number in range(50):
            text = good.replace("slots = 1", f"slots = {2 + number % 3}")
            broken = number % 5 == 3
            _replace_file(world, text + "[leasse]\n" if broken else text)
            name = "config.refused" if broken else "config.reloaded"
            before = daemon.output().count(name)
            daemon.signal(signal.SIGHUP)
            eventually(partial(_expect_more, daemon, name, before))
            manager.expect()  # it reads: nobody waits for room in its socket
        assert daemon.events("run.settled")[-1]["sequence"] > event["sequence"], "it flowed"
        eventually(lambda: _all_succeeded(world))
        manager.expect("READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1")
        assert {"config.refused"} == {e["event"] for e in daemon.events() if e["level"] == "error"}

    assert [(1, 1)] * 60 == stored(world, "SELECT fence, attempts_used + 1 FROM tasks ORDER BY id")


def _expect_more(daemon: Daemon, name: str, before: int) -> None:
    assert daemon.output().count(name) > before


def _replace_file(world: World, text: str) -> None:
    """Write the file as editors do: nobody reads a half of it."""
    draft = world.config_file.with_suffix(".new")
    draft.write_text(text)
    draft.replace(world.config_file)


def _all_succeeded(world: World) -> None:
    assert {"succeeded"} == set(states(world)), listed(world)


def test_reload_prints_what_changed_what_was_kept_and_every_mistake(world: World) -> None:
    assert "no daemon runs here" in world.cli("reload", exits=1).stderr
    with world.daemon() as daemon:
        assert "nothing changed\n" == world.cli("reload").stdout

        queue = {"concurrency": 1, "priority": 9}
        other = f"sqlite://{world.directory}/other.db"
        world.configure(store={"url": other}, logs={"level": "info"}, **{"queues.builds": queue})
        assert {
            "logs.level: debug -> info",
            "queues.builds.priority: (none) -> 9",
            "queues.builds.concurrency: (none) -> 1",
            f"store.url: still sqlite://{world.state_dir}/tasks.db; restart the daemon for {other}",
        } == set(world.cli("reload").stdout.splitlines())

        world.configure(**{"queues.builds": {"concurency": 1}})
        refused = world.cli("reload", exits=78).stderr
        assert "queues.builds.concurency: unknown key; did you mean 'concurrency'?" in refused

        world.configure(**{"queues.builds": queue})
        world.cli("reload")
        builds = submit_all(
            world,
            *[{"command": shell("until [ -e go ]; do sleep 0.05; done"), "queue": "builds"}] * 3,
        )
        others = submit_all(world, {"command": ["true"]})
        world.until(others[0], "succeeded")
        seen = listed(world)
        assert 1 == sum(seen[build]["state"] == "running" for build in builds)
        (world.directory / "go").touch()
        world.until(builds[2], "succeeded")
        assert daemon.process.poll() is None


@pytest.mark.parametrize("what", ["fifo", "env_file", "dots"])
def test_r64_anything_unreadable_in_the_files_place_is_refused_and_the_daemon_goes_on(
    world: World, what: str
) -> None:
    with world.daemon() as daemon:
        replaced = world.config_file
        before = replaced.rename(replaced.with_suffix(".before"))
        if what == "dots":
            replaced.write_text("a." * 40_000 + "b=1")
        else:
            os.mkfifo(replaced)

        daemon.signal(signal.SIGHUP)

        [mistake] = daemon.expect("config.refused")["mistakes"]
        assert str(replaced) in mistake
        before.rename(replaced)
        world.cli("reload")
        world.until(world.submit("true"), "succeeded")


def test_r64_a_mistaken_profile_stays_as_it_was_and_the_rest_is_reloaded(world: World) -> None:
    variables = world.directory / "p.env"
    variables.write_text("A=1\n")
    profile = {"command": shell('echo "$A" > wrote'), "env_file": str(variables)}
    world.configure(**{"profiles.p": profile})
    with world.daemon() as daemon:
        task_id = world.cli("submit", "--profile", "p", "--delay", "1h").id
        before = variables.rename(world.directory / "before.env")
        os.mkfifo(variables)  # anything in its place blocks nothing
        world.configure(node={"slots": 3}, **{"profiles.p": profile, "profiles.q": {"comand": []}})

        done = world.cli("reload")

        assert "node.slots: 4 -> 3\n" == done.stdout
        assert "profiles.q.comand: unknown key; did you mean 'command'?" in done.stderr
        assert f"profiles.p.env_file: {variables} is not a regular file" in done.stderr
        assert 1 == done.stderr.count("profiles.q.comand")
        mistakes = daemon.expect("config.mistaken")["mistakes"]
        assert mistakes == world.cli("status", "--json").json["node"]["config_mistakes"]
        assert f"degraded  {mistakes[0]}" in world.cli("status").stdout
        assert [] == daemon.events("config.refused")
        world.cli("release", world.cli("hold", task_id).stdout.split()[0])
        world.until(task_id, "succeeded")
        assert "1\n" == (world.directory / "wrote").read_text(), "with the variables of before"
        before.replace(variables)
        world.configure(**{"profiles.p": profile})
        world.cli("reload")
        assert [] == world.cli("status", "--json").json["degraded"]


def test_a_daemon_starts_with_a_mistaken_profile_and_holds_its_tasks(world: World) -> None:
    variables = world.directory / "p.env"
    variables.write_text("A=1\n")
    world.configure(**{"profiles.p": {"command": ["true"], "env_file": str(variables)}})
    task_id = world.cli("submit", "--profile", "p").id
    variables.unlink()
    with world.daemon() as daemon:
        other = world.submit("true")
        world.until(other, "succeeded")
        held = world.until(task_id, "held")
        [mistake] = daemon.expect("config.mistaken")["mistakes"]
        assert f"its profile cannot be used: {mistake}; once that is mended" in held["reason"]
        assert 0 == held["attempts_used"]
        assert mistake in world.cli("why", task_id).stdout
        variables.write_text("A=1\n")
        world.cli("reload")
        world.cli("release", task_id)
        world.until(task_id, "succeeded")


def test_a_broken_file_takes_no_verb_away_that_only_looks_or_stops(world: World) -> None:
    with world.daemon():
        first, second = (world.submit("sleep", "60") for _ in range(2))
        world.until(second, "running")
        with world.config_file.open("a") as file:
            file.write("[leasse]\n")
        world.cli("status", exits=78)
        text = world.config_file.read_text().replace("[leasse]\n", "")
        world.config_file.write_text(text.replace("poll = ", "pol = "))

        event = world.cli("status")
        assert "daemon    running" in event.stdout
        assert "daemon.pol: unknown key; did you mean 'poll'?" in event.stderr
        assert "going on with the rest of it" in event.stderr
        world.cli("cancel", first)
        world.until(first, "cancelled")
        world.cli("hold", second)
        world.until(second, "held")
        for verb in ("why", "logs", "show"):
            world.cli(verb, first)
        assert 2 == len(world.cli("list", "--json").json)
        world.cli("submit", "--", "true", exits=78)
        world.cli("claim", exits=78)


@pytest.mark.parametrize(
    "mistake",
    ["[leases]\nttl = 5\n", '[leasse]\n"\\u0000" = 1\n', '[leases]\n"\\u0000" = 1\n', "[broken\n"],
)
def test_a_mistaken_file_keeps_no_executor_down(world: World, mistake: str) -> None:
    """The daemon works on with the file of before, and waits for it."""
    world.configure(executor={"mode": "external"})
    right = world.config_file.read_text()
    with world.daemon(alone=False) as daemon:
        with external_executor(world, alone=False) as first:
            daemon.expect("executor.connected", executor_pid=first.pid)
            world.config_file.write_text(mistake + right)
            first.kill()
        with external_executor(world, alone=False) as second:
            daemon.expect("executor.connected", executor_pid=second.pid)
            world.config_file.write_text(right)
            world.until(world.submit("true"), "succeeded")

    lines = map(json.loads, (world.directory / "external.log").read_text().splitlines())
    (event,) = [line for line in lines if line["event"] == "config.mistaken"]
    assert str(world.config_file) in event["mistakes"][0]


def test_a_reload_that_removes_a_limit_names_it_if_unfinished_tasks_take_it(world: World) -> None:
    kept = {"limits.kept": {"concurrency": 1}}
    world.configure(**kept, **{"limits.gone": {"concurrency": 1}})
    with world.daemon() as daemon:
        world.cli("submit", "--limit", "kept", "--limit", "gone", "--", "sleep", "600")
        world.configure(**kept)

        answer = world.cli("reload")

        assert "limit gone is not configured: it limits nothing" in answer.stderr
        assert ["gone"] == daemon.expect("limit.gone")["limits"]
