"""`dispatcher schedules` and `[schedules.NAME]`: what people write and read."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher import schedule_tasks
from dispatcher.config.config import Mistaken, load
from dispatcher.errors import ConfigError
from dispatcher.schedules import ScheduleState
from dispatcher.times import WallTime
from tests.command import Command

FILE = """
[profiles.report]
command = ["report", "{month}"]
queue = "reports"
cwd = "/srv"
[profiles.broken]
command = []
[schedules.monthly]
cron = "0 3 1 * *"
time_zone = "Europe/Berlin"
profile = "report"
payload = '{"month": "last"}'
priority = 7
env = { LEVEL = "3" }
labels = { team = "b" }
run_timeout = "1h"
[schedules.sync]
cron = "*/10 * * * *"
command = ["sync", "--all"]
catch_up = "none"
overlap = "queue"
"""


def utc(*when: int) -> WallTime:
    return WallTime(round(datetime(*when, tzinfo=UTC).timestamp() * 1000))  # type: ignore[arg-type]


@pytest.fixture
def scheduled(command: Command) -> Command:
    command.configure(FILE)
    return command


def settle(command: Command, name: str, definition: str, **facts: Any) -> None:
    with command.client() as client, client.store.transaction() as now:
        client.store.take_schedules({name: definition}, at=utc(2026, 8, 1))
        state = ScheduleState(name=name, definition=definition, settled_at=utc(2026, 8, 2))
        client.store.settle_schedule(ScheduleState(**{**_dict(state), **facts}), now=now)


def _dict(state: ScheduleState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__struct_fields__}


def test_a_schedules_task_has_what_its_table_gives(scheduled: Command) -> None:
    tasks = schedule_tasks.ScheduleTasks(load(str(scheduled.config_file)))

    task = tasks.task("monthly", utc(2026, 8, 1, 1))
    assert ("report", "last") == task.command
    assert ("reports", 7, "/srv", 3_600_000) == (
        task.queue,
        task.priority,
        task.cwd,
        task.run_timeout_ms,
    )
    assert {"SCHEDULED_AT": "2026-08-01T01:00:00Z", "LEVEL": "3"} == task.env
    assert {"name": "monthly", "team": "b"} == task.labels
    assert ("schedule:monthly", "schedule:monthly:2026-08-01T01:00:00Z") == (task.origin, task.key)
    plain = tasks.task("sync", utc(2026, 8, 1, 1))
    assert (("sync", "--all"), "/", "default") == (plain.command, plain.cwd, plain.queue)
    assert (None, None) == (plain.environment, plain.umask)


def test_a_command_in_the_file_is_allowed_where_submits_may_name_profiles_alone(
    command: Command,
) -> None:
    command.configure(f"{FILE}[defaults]\nallow_commands = false\n")
    config = load(str(command.config_file))

    schedule_tasks.check(config)
    assert ("sync", "--all") == schedule_tasks.ScheduleTasks(config).task(
        "sync", utc(2026, 8, 1)
    ).command


MISTAKES = [
    ('cron = "30 2 31 2 *"', "schedules.x.cron: '30 2 31 2 *' is no cron line: the day of month"),
    ('time_zone = "Europe/Berlim"', "schedules.x.time_zone: this host knows no time zone"),
    ('profile = "reprot"', "schedules.x.profile: there is no profile 'reprot'; add [profiles.rep"),
    ('profile = "report"\ncommand = ["a"]', "schedules.x.command: its profile brings one"),
    ("priority = 1", "schedules.x.command: is missing; write a command or a profile"),
    ('overlap = "stop"', '\'stop\' is not "skip" or "queue" or "cancel_old"'),
    ('kind = "x"', "schedules.x.kind: unknown key"),
]


@pytest.mark.parametrize(("lines", "message"), MISTAKES)
def test_r92_a_mistake_is_named_with_its_remedy_whoever_reads_the_file(
    command: Command, lines: str, message: str
) -> None:
    needed = "" if lines.startswith("cron") else 'cron = "0 3 * * *"\n'
    needed += (
        ""
        if "command" in lines or "profile" in lines or "priority" in lines
        else ('command = ["true"]\n')
    )
    command.configure(f"[profiles.report]\ncommand = ['true']\n[schedules.x]\n{needed}{lines}\n")

    assert message in command("check-config", exits=78).stderr
    with pytest.raises(Mistaken):
        load(str(command.config_file))


def test_a_task_that_nobody_could_submit_is_a_mistake_too(command: Command) -> None:
    command.configure(FILE.replace("payload = ", "# payload = "))
    message = "schedules.monthly.payload: is missing; give a JSON object with month"

    assert message in command("check-config", exits=78).stderr
    with pytest.raises(ConfigError, match=r"schedules\.monthly\.payload: is missing"):
        schedule_tasks.check(load(str(command.config_file)))


def test_a_profile_with_a_mistake_of_its_own_is_named_once(command: Command) -> None:
    command.configure(f"{FILE}[schedules.x]\ncron = '0 3 * * *'\nprofile = 'broken'\n")

    stderr = command("check-config", exits=78).stderr

    assert 1 == stderr.count("broken"), stderr
    schedule_tasks.check(load(str(command.config_file)))


def test_r92_the_list_names_the_last_time_and_the_next_one(scheduled: Command) -> None:
    with scheduled.client() as client:
        task_id = client.submit(command=["true"]).task_id
    at = {"fired_at": utc(2026, 8, 1, 1), "task_id": task_id}
    settle(scheduled, "monthly", "0 3 1 * * Europe/Berlin", **at)
    settle(scheduled, "gone", "0 3 1 * * UTC", note="skipped: why")

    gone, monthly, sync = scheduled("schedules", "--json").json
    assert ("gone", None, None, "skipped: why") == (
        gone["schedule"],
        gone["cron"],
        gone["next_at"],
        gone["note"],
    )
    assert {
        "schedule": "monthly",
        "cron": "0 3 1 * *",
        "time_zone": "Europe/Berlin",
        "catch_up": "one",
        "overlap": "skip",
        "last_at": "2026-08-01T01:00:00.000Z",
        "task_id": task_id,
        "state": "ready",
        "outcome": None,
        "next_at": "2026-09-01T01:00:00.000Z",
        "note": None,
        "paused": None,
    } == monthly
    assert ("sync", None) == (sync["schedule"], sync["last_at"])
    lines = scheduled("schedules").stdout.splitlines()
    assert "2026-08-01T03:00+02:00" in lines[2], lines
    assert "ready" in lines[2]
    assert "2026-09-01T03:00+02:00" in lines[2]
    assert "not in this configuration" in lines[1]
    assert "no daemon has it yet" in lines[3]


def test_without_any_the_list_says_how_to_make_one(command: Command) -> None:
    assert "no schedules; add [schedules.NAME] to the file" in command("schedules").stderr
    assert [] == command("schedules", "--json").json


def test_one_is_paused_before_any_daemon_has_seen_it_and_goes_on(scheduled: Command) -> None:
    assert "sync is paused\n" == scheduled("schedules", "pause", "sync", "--reason", "disk").stdout
    assert "was paused already" in scheduled("schedules", "pause", "sync").stdout
    (_, sync) = scheduled("schedules", "--json").json
    assert ("disk", None) == (sync["paused"], sync["next_at"])
    assert "paused: disk" in scheduled("schedules").stdout
    assert [{"schedule": "sync", "done": True}] == scheduled(
        "schedules", "resume", "sync", "--json"
    ).json
    assert "was not paused" in scheduled("schedules", "resume", "sync").stdout
    assert "schedule resume sync" in scheduled("events").stdout


def test_one_that_the_file_no_longer_has_can_be_forgotten(scheduled: Command) -> None:
    settle(scheduled, "gone", "0 3 1 * * UTC")
    assert "schedule monthly is in" in scheduled("schedules", "forget", "monthly", exits=1).stderr
    assert "gone is forgotten\n" == scheduled("schedules", "forget", "gone").stdout

    assert "there is no schedule 'gone'" in scheduled("schedules", "forget", "gone", exits=1).stderr


def test_misused_words_are_named(scheduled: Command) -> None:
    assert "name the schedule" in scheduled("schedules", "pause", exits=2).stderr
    assert "did you mean 'sync'?" in scheduled("schedules", "pause", "synk", exits=1).stderr
    reason = ("--reason", "x")
    assert "resume has none" in scheduled("schedules", "resume", "sync", *reason, exits=2).stderr
    assert "is empty" in scheduled("schedules", "pause", "sync", "--reason", " ", exits=2).stderr
