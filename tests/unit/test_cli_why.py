"""`hold`, `release`, `pause`, `resume` and `why`, without a daemon."""

import pytest

from dispatcher.calendar import Calendar
from dispatcher.cli.verbs.why import explain
from dispatcher.client import Client
from dispatcher.model import PausedQueue, Task, TaskState
from dispatcher.obstacles import Standing
from dispatcher.times import StoreTime
from tests.command import Command
from tests.reports import report

#: The beginning of all times.
START = Calendar(StoreTime(0), 0)


def test_why_of_several_tasks_looks_at_the_daemon_once(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        command("submit", "--", "true")
    sound, looks = Client.standing, []

    def standing(client: Client) -> Standing:
        looks.append(client)
        return sound(client)

    monkeypatch.setattr(Client, "standing", standing)

    shown = command("why", "1-3", 2).stdout

    assert 4 == shown.count("task ")
    assert 1 == len(looks)


def test_a_task_named_twice_is_shown_once(command: Command) -> None:
    command("submit", "--", "true")
    command("submit", "--", "true")

    assert [1, 2] == [one["id"] for one in command("show", 1, "1-2", 1, "--json").json]


def test_a_task_is_held_with_a_reason_and_released(command: Command) -> None:
    command("submit", "--", "true")

    assert "1 held\n" == command("hold", 1, "--reason", "disk is full").stdout
    explained = command("why", 1).stdout
    assert explained.startswith("task 1 is held: disk is full\n")
    assert "dispatcher release 1" in explained
    assert "1 ready\n" == command("release", 1).stdout


def test_the_pause_of_an_unknown_queue_is_reported_and_holds(command: Command) -> None:
    command.configure('[queues.nightly]\n[profiles.shrink]\ncommand = ["true"]\nqueue = "files"\n')
    command("submit", "--queue", "ci", "--", "true")
    for known in ("ci", "nightly", "files", "default"):
        assert "" == command("pause", known).stderr

    paused = command("pause", "nihgtly", "zzz")

    assert "nihgtly paused\nzzz paused\n" == paused.stdout
    assert (
        "dispatcher: no task is in queue 'nihgtly'; did you mean 'nightly'?\n"
        "dispatcher: no task is in queue 'zzz'; it holds for those that come\n"
    ) == paused.stderr


def test_a_queue_is_paused_and_resumed_and_every_verb_shows_it(command: Command) -> None:
    command("submit", "--queue", "ci", "--", "true")

    assert "ci paused\n" == command("pause", "ci", "--reason", "upgrade").stdout
    assert "ci was paused already\n" == command("pause", "ci").stdout
    assert {"ci": "upgrade"} == command("status", "--json").json["paused_queues"]
    assert "queue     ci is paused: upgrade" in command("status").stdout
    assert "its queue ci is paused since" in command("why", 1).stdout
    assert "queue ci is paused: upgrade" in command("claim", "--queue", "ci", exits=1).stderr
    assert "ci resumed\n" == command("resume", "ci").stdout
    assert "ci was not paused\n" == command("resume", "ci").stdout
    assert "queue: 'a b' is not a name; use up to 100" in command("pause", "a b", exits=2).stderr


def test_pausing_and_resuming_as_json(command: Command) -> None:
    paused = [command("pause", "a", "b", "--json").json, command("pause", "b", "--json").json]
    resumed = command("resume", "a", "c", "--json").json

    assert [{"queue": "a", "done": True}, {"queue": "b", "done": True}] == paused[0]
    assert [{"queue": "b", "done": False}] == paused[1]
    assert [{"queue": "a", "done": True}, {"queue": "c", "done": False}] == resumed


def test_why_ends_a_question_to_a_person_with_its_last_line(command: Command) -> None:
    for _ in range(2):
        command("submit", "--", "true")
    command.run_once(state=TaskState.HELD, output=b"looked\n\x1b[1mwhich bucket?\x1b[0m\n\n")
    command.run_once(output=b"")

    held, failed = command("why", 1).stdout, command("why", 2).stdout

    first, second, *_ = held.splitlines()
    assert "task 1 is held: used up its attempts" == first
    assert "  the last line it wrote: which bucket?" == second
    assert "the last line" not in failed


def test_show_and_why_take_several_ids_and_ranges(command: Command) -> None:
    for _ in range(4):
        command("submit", "--", "true")

    shown, explained = command("show", 4, "1-2").stdout, command("why", 4, "1-2").stdout
    as_json = command("show", 4, "1-2", "--json").json, command("why", "3-900", "--json").json

    assert ["task 4", "task 1", "task 2"] == [s for s in shown.splitlines() if s[:4] == "task"]
    assert ["task 4 is ready", "task 1 is ready", "task 2 is ready"] == [
        line.split(":")[0] for line in explained.splitlines() if line.startswith("task")
    ]
    assert ([4, 1, 2], [3, 4]) == tuple([one["id"] for one in found] for found in as_json)
    assert 1 == command("show", 1, "--json").json["id"]
    missing = command("why", 1, 9, exits=1)
    assert ("", True) == (missing.stdout, "no task 9" in missing.stderr)
    assert "no task has an id in 7-9" in command("show", "7-9", exits=1).stderr
    assert "dispatcher logs $id" in command("logs", 1, 2, exits=2).stderr


def test_why_as_json(command: Command) -> None:
    command("submit", "--", "true")

    explained = command("why", 1, "--json").json

    assert (1, "ready") == (explained["id"], explained["state"])
    assert ["the daemon is not running: dispatcher run --detach"] == explained["because"]
    assert "no task 9" in command("why", 9, exits=1).stderr

    command.configure("[executor]\nmode = 'external'")
    explained = command("why", 1, "--json").json
    assert ["the daemon is not running: dispatcher run"] == explained["because"]


@pytest.mark.parametrize(
    ("state", "facts", "expected"),
    [
        (TaskState.READY, {"busy": 2}, ["all 2 slots are busy"]),
        (TaskState.SCHEDULED, {}, ["it is due at 1970-01-01T00:00:05.000Z (in 5 s)"]),
        (
            TaskState.SCHEDULED,
            {"busy": 2},
            ["it is due at 1970-01-01T00:00:05.000Z (in 5 s)", "all 2 slots are busy"],
        ),
        (TaskState.SUCCEEDED, {"stopping": "drain"}, []),
        (
            TaskState.FAILED,
            {},
            ["it never ran", "dispatcher retry 7 gives it all its attempts again"],
        ),
    ],
)
def test_why_names_each_obstacle(
    state: TaskState, facts: dict[str, object], expected: list[str]
) -> None:
    status = Standing(
        calendar=START,
        paused={},
        node=None,
        daemon="running",
        report=report(**facts),
    )

    assert expected == list(explain(task(state), [], status))


def test_the_ready_tasks_before_one_are_counted(command: Command) -> None:
    for _ in range(3):
        command("submit", "--", "true")

    assert "before it" not in command("why", 1).stdout
    assert "  1 ready task of its queue is before it\n" in command("why", 2).stdout
    assert "  2 ready tasks of its queue are before it\n" in command("why", 3).stdout


def test_a_pending_time_out_is_reported() -> None:
    waiting = task(TaskState.READY, fails_at=StoreTime(9_000))
    paused = {"q": PausedQueue("q", "upgrade", StoreTime(1_000))}
    status = Standing(calendar=START, paused=paused, node=None, daemon="running", report=report())

    assert [
        "its queue q is paused since 1970-01-01T00:00:01.000Z: upgrade; dispatcher resume q",
        "it fails at 1970-01-01T00:00:09.000Z (in 9 s) if it has not been claimed by then",
    ] == list(explain(waiting, [], status))


def task(state: TaskState, **facts: object) -> Task:
    """Return a task of which only what `explain` looks at means anything."""
    values = dict.fromkeys(Task.__struct_fields__)
    values |= {"id": 7, "state": state, "queue": "q", "run_at": StoreTime(5_000), "takes": {}}
    return Task(**{**values, **facts})  # type: ignore[arg-type]
