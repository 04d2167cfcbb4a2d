"""`events` on the command line."""

import pytest

from dispatcher.cli.verbs import events as verb
from dispatcher.operations import events
from tests.command import Command


@pytest.fixture
def told(command: Command) -> Command:
    command("submit", "--", "true")
    command("submit", "--queue", "ci", "--", "true")
    command("hold", "1", "--reason", "disk is full")
    command("pause", "ci", "--reason", "upgrade")
    return command


def test_events_for_people(told: Command) -> None:
    lines = [line.split(None, 1)[1] for line in told("events").stdout.splitlines()]

    assert ["task 1 submit ready", "task 2 submit ready"] == [
        " ".join(line.split()[:4]) for line in lines[:2]
    ]
    assert "task 1 hold ready -> held" == " ".join(lines[2].split()[:6])
    assert lines[2].endswith(" disk is full")
    assert "pause ci" == " ".join(lines[3].split()[:2])
    assert lines[3].endswith(" upgrade")


def test_events_for_programs(told: Command) -> None:
    *_, held, paused = told("events", "--json").json

    assert held.pop("at").endswith("Z")
    who = held.pop("who")
    assert ("user", None) == (who["kind"], who["node"])
    assert held == {
        "event": "hold",
        "task_id": 1,
        "queue": "default",
        "subject": None,
        "fence": 0,
        "before": "ready",
        "after": "held",
        "reason": "disk is full",
    }
    assert ("pause", "ci", None) == (paused["event"], paused["subject"], paused["task_id"])


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (("--task", "1"), ["submit", "hold"]),
        (("--queue", "ci"), ["submit", "pause"]),
        (("-n", "1"), ["pause"]),
        (("--since", "1h"), ["submit", "submit", "hold", "pause"]),
        (("--since", "2100-01-01"), []),
        (("--task", "1", "--since", "2100-01-01"), []),
        (("--task", "1", "-n", "1"), ["hold"]),
    ],
)
def test_which_events(told: Command, options: tuple[str, ...], kinds: list[str]) -> None:
    assert kinds == [one["event"] for one in told("events", *options, "--json").json]


def test_events_of_a_queue_have_those_of_its_limit(command: Command) -> None:
    command.configure('[queues.ci]\nbreaker = "5 in 10m"\n[limits.ci]')
    command("limit", "close", "queue:ci", "ci")
    command("limit", "open", "queue:ci")

    found = command("events", "--queue", "ci", "--json").json
    assert ["queue:ci"] * 2 == [one["subject"] for one in found]


def test_events_of_an_unknown_task(command: Command) -> None:
    assert "99" in command("events", "--task", "99", exits=1).stderr


def test_a_follower_that_is_behind_does_not_pause(
    told: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BATCH", 2)
    pauses = 0

    def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses > 1:
            raise KeyboardInterrupt
        with told.client() as client:
            for _number in range(5):
                client.submit(command=["true"])

    monkeypatch.setattr(verb, "sleep", pause)

    printed = told("events", "-f", "-n", "1", exits=130).stdout.splitlines()

    assert 1 + 5 == len(printed)
