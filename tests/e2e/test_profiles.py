"""Profiles, as operators use them: each rule by kind of task."""

import re
import sys

from tests.e2e.helpers import expect_settled, submit_all
from tests.e2e.world import DISPATCHER, World

PROFILES = f"""
[profiles.exits]
command = ["sh", "-c", "exit $0", "{{code}}"]
max_attempts = 1
[profiles.exits.exit_codes]
3 = "deferred"
4 = "held"
5 = "succeeded"
6 = "failed"
75 = "failed"
[profiles.explicit]
command = ["sh", "-c", "exit 0"]
max_attempts = 1
exit_codes = {{ "0" = "failed" }}
[profiles.declares]
command = ["{sys.executable}", "-m", "worker_stub", "succeed"]
max_attempts = 1
exit_codes = {{ "0" = "failed" }}
[profiles.charged]
command = ["sleep", "30"]
max_attempts = 1
liveness = "worker"
lease_ttl = "400ms"
kill_grace = "0s"
[profiles.spared]
command = ["sleep", "30"]
max_attempts = 1
liveness = "worker"
lease_ttl = "400ms"
kill_grace = "0s"
lost = "orphan"
"""


def test_r32_r33_r40_a_profile_decides_the_meaning_of_an_exit_code(world: World) -> None:
    world.configure(retry={"max_orphans": 1, "cooldown": "1h"}, defaults={"allow_commands": False})
    world.config_file.write_text(world.config_file.read_text() + PROFILES)
    refused = world.cli("submit", "--", "true", exits=2).stderr
    assert "only profiles may be run here; known are: exits, explicit, declares" in refused

    exits = {
        code: world.cli("submit", "--profile", "exits", "--payload", f'{{"code": {code}}}').id
        for code in (0, 3, 4, 5, 6, 75, 78)
    }
    line = '{"profile": "explicit"}'
    explicit = world.cli("submit", "--from", "-", stdin=line).id
    declares = world.cli("submit", "--profile", "declares").id
    charged, spared = (world.cli("submit", "--profile", p).id for p in ("charged", "spared"))
    # Fixed at submit: a later change of the file changes no task.
    kept = world.config_file.read_text()
    world.config_file.write_text(kept.replace('4 = "held"', '4 = "succeeded"'))
    with world.daemon() as daemon:
        found = {
            code: world.until(task, "succeeded", "failed", "held", "scheduled")["state"]
            for code, task in exits.items()
        }
        assert {
            0: "succeeded",
            3: "scheduled",
            4: "held",
            5: "succeeded",
            6: "failed",
            75: "failed",
            78: "held",
        } == found
        assert "explicit" == world.until(explicit, "failed")["profile"]
        assert "declared by the worker" == world.until(declares, "succeeded")["reason"]
        task = world.until(charged, "failed")
        assert (1, ["lost"]) == (task["attempts_used"], [run["outcome"] for run in task["runs"]])
        task = world.until(spared, "held", "failed")
        assert ("held", 0, ["lost", "lost"]) == (
            task["state"],
            task["attempts_used"],
            [run["outcome"] for run in task["runs"]],
        )
        assert "more than 1 times" in task["reason"]
        assert daemon.process.poll() is None


def test_a_profiles_command_meets_no_shell(world: World) -> None:
    world.config_file.write_text(
        world.config_file.read_text() + '[profiles.print]\ncommand = ["printf", "%s|", "{text}"]\n'
    )
    payload = '{"text": "a b $(id) \\"; \'x\'"}'
    with world.daemon():
        task = world.cli("submit", "--profile", "print", "--payload", payload, "--wait").id
    assert "a b $(id) \"; 'x'|" == world.cli("logs", task).stdout


def test_the_secrets_of_an_env_file_reach_only_the_worker(world: World) -> None:
    secrets = world.directory / "p.env"
    world.config_file.write_text(
        world.config_file.read_text()
        + f"""[profiles.p]
command = ["sh", "-c", '''
    {DISPATCHER} submit -- true; echo "$SECRET $BOTH $OWN $DISPATCHER_FENCE" > $1
''', "-", "{{to}}"]
env = {{ BOTH = "of env" }}
env_file = "{secrets}"
"""
    )
    submit = ("submit", "--profile", "p", "--env", "OWN=own", "--payload")
    mistake = f"{secrets} is missing; make it, or write -{secrets} if it may be"
    assert f"profiles.p.env_file: {mistake}" in world.cli("check-config", exits=78).stderr
    refused = world.cli(*submit, "{}", exits=78).stderr
    assert f"profile: the env_file of 'p': {mistake}" in refused

    secrets.write_text("SECRET=hunter2-first\nBOTH=hunter2-both\n")
    with world.daemon() as daemon:
        world.cli(*submit, '{"to": "first"}', "--wait")
        kept = world.cli(*submit, '{"to": "kept"}', "--delay", "1h").id
        secrets.write_text("SECRET='hunter2-second")
        refused = world.cli("reload").stderr
        assert f"{secrets}:1: the quote does not end" in refused
        world.cli("hold", kept)
        world.cli("release", kept)
        world.until(kept, "succeeded")
        secrets.write_text("SECRET='hunter2-second'\n")
        assert "profiles.p.env_file: (not shown) -> (not shown)" in world.cli("reload").stdout
        second = world.cli(*submit, '{"to": "second"}', "--wait").id

    written = {name: (world.directory / name).read_text() for name in ("first", "kept", "second")}
    assert {
        "first": "hunter2-first of env own 1\n",
        "kept": "hunter2-first of env own 1\n",
        "second": "hunter2-second of env own 1\n",
    } == written
    shown = [world.cli("config").stdout, world.cli("show", second, "--json").stdout, refused]
    shown += [daemon.output(), world.cli("list", "--json").stdout]
    assert [] == [text for text in shown if "hunter2" in text]
    files = [file for file in world.state_dir.rglob("*") if file.is_file()]
    assert world.state_dir / "tasks.db" in files
    assert [("own",)] == world.stored("SELECT DISTINCT variables ->> 'OWN' FROM environments")
    assert [] == [file for file in files if b"hunter2" in file.read_bytes()]


def test_reported_leftovers_of_a_profile_go_on_and_the_next_start_does_not_wait(
    world: World,
) -> None:
    script = "sh -c 'echo $$ >> servers; exec sleep 1000' & sleep 0.1; exit 1"
    world.config_file.write_text(
        world.config_file.read_text()
        + f"""[profiles.builds]
command = ["sh", "-c", "{script}"]
leftovers = "report"
"""
    )
    with world.daemon(alone=False) as daemon:
        task_id = world.cli("submit", "--profile", "builds").id
        first = daemon.expect("worker.leftover_reported", task_id=task_id, attempt=1)
        second = daemon.expect("worker.leftover_reported", task_id=task_id, attempt=2)
        for event in (first, second):
            assert re.fullmatch(r"sleep \(\d+\)", *event["names"])
        task = world.until(task_id, "failed", "scheduled", "running")
        outcomes = [run["outcome"] for run in task["runs"][:2]]
        assert ["failed", "failed"] == outcomes, "not released for a predecessor"
        assert first["names"] == task["runs"][0]["left_alone"]
        assert (
            f"left processes that go on: {first['names'][0]}" in world.cli("show", task_id).stdout
        )
        other = submit_all(world, {"command": ["true"]})
        expect_settled(daemon, other, outcome="succeeded")
        world.until(task_id, "failed")
    servers = [int(pid) for pid in (world.directory / "servers").read_text().split()]
    assert 3 == len(servers)
    living = {process.pid for process in world.processes()}
    assert len(living & set(servers)) == 3, "none was signalled, and the daemon's end left them"
    assert [] == daemon.events("worker.leftover_ended")
