"""`limits`, `limit`, and the verbs that show limits, on the command line."""

import pytest

from dispatcher.errors import DispatcherError
from dispatcher.times import WallTime
from tests.command import Command

FILE = """
[limits.provider]
concurrency = 2
rate = "10/1m"
[limits.maintenance]
"""


@pytest.fixture
def limited(command: Command) -> Command:
    command.configure(FILE)
    return command


def test_the_limits_for_programs(limited: Command) -> None:
    limited("limit", "close", "provider", "--until", "2h", "--reason", "over its budget")

    maintenance, provider = limited("limits", "--json").json

    assert ("maintenance", True, None, None) == (
        maintenance["limit"],
        maintenance["configured"],
        maintenance["concurrency"],
        maintenance["rate"],
    )
    assert (2, "10/1m", 0, {}, 0) == tuple(
        provider[key] for key in ("concurrency", "rate", "held", "holders", "started")
    )
    assert "over its budget" == provider["closed_reason"]
    assert provider["closed_until"].endswith("Z")
    assert provider["closed_by"].startswith("user:")
    assert [maintenance, provider] == limited("status", "--json").json["limits"]


def test_the_limits_for_people(limited: Command) -> None:
    limited("limit", "close", "provider", "maintenance")

    heading, *rows = limited("limits").stdout.splitlines()

    assert ["LIMIT", "ALLOWS", "HELD", "STARTED", "BY", "STATE"] == heading.split()
    assert ["maintenance", "only", "closed", "0", "closed:"] == rows[0].split()[:5]
    assert "2 at once, 10/1m" in rows[1]
    assert rows[1].endswith("closed: closed by an operator")
    assert (
        "limit     provider is closed: closed by an operator; dispatcher limit open provider"
        in (limited("status").stdout)
    )


def test_without_limits_there_is_nothing_to_list(command: Command) -> None:
    assert [] == command("limits", "--json").json
    assert "there is no limit; add [limits.NAME]" in command("limits").stderr


def test_a_closed_limit_is_opened_once(limited: Command) -> None:
    assert "provider is closed\n" == limited("limit", "close", "provider").stdout
    assert "provider is open\n" == limited("limit", "open", "provider").stdout
    assert "provider was open already\n" == limited("limit", "open", "provider").stdout
    assert [{"limit": "provider", "done": False}] == (
        limited("limit", "open", "provider", "--json").json
    )
    events = limited("events", "--json").json
    assert [("limit_closed", "provider"), ("limit_opened", "provider")] == [
        (one["event"], one["subject"]) for one in events
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limit", "close", "provder"), "there is no limit 'provder'; did you mean 'provider'?"),
        (("limit", "close", "x9"), "known are: maintenance, provider; or add [limits.x9]"),
        (("limit", "open", "x9"), "there is no limit 'x9'"),
    ],
)
def test_an_unknown_limit_is_refused_with_those_that_are_known(
    limited: Command, words: tuple[str, ...], said: str
) -> None:
    assert said in limited(*words, exits=1).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("open", "provider", "--reason", "x"), "--reason: open has none"),
        (("open", "provider", "--until", "2h"), "--until: open has none"),
        (("close", "provider", "--reason", " "), "--reason: is empty"),
        (
            ("close", "provider", "--until", "soon"),
            'is not a time; write a time of the day, e.g. "23',
        ),
        (("close",), "Missing argument"),
    ],
)
def test_a_mistaken_call_is_refused(limited: Command, words: tuple[str, ...], said: str) -> None:
    assert said in limited("limit", *words, exits=2).stderr


def test_a_task_shows_its_limits_and_why_names_the_one_that_is_closed(limited: Command) -> None:
    limited("submit", "--limit", "provider=2", "--limit", "maintenance", "--", "true")
    limited("limit", "close", "maintenance", "--reason", "new disks")

    assert "limits     maintenance=1 provider=2" in limited("show", "1").stdout
    assert {"provider": 2, "maintenance": 1} == limited("show", "1", "--json").json["limits"]
    (found, _) = limited("why", "1", "--json").json["obstacles"]
    assert "limit_closed" == found["obstacle"]
    assert "limit maintenance is closed since" in found["text"]
    assert "until somebody opens it: new disks" in found["text"]
    assert "limit closed" in limited("list").stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("provider=x", "limit: 'provider=x' is not a limit; write provider=N"),
        ("provider=", "limit: 'provider=' is not a limit"),
        ("provider=9", "must be from 1 to 2, not 9"),
        ("other", "there is no limit 'other'"),
    ],
)
def test_a_mistaken_limit_of_a_submit_is_refused(limited: Command, text: str, said: str) -> None:
    assert said in limited("submit", "--limit", text, "--", "true", exits=2).stderr


def test_lines_name_limits_as_a_mapping_or_a_list(limited: Command) -> None:
    lines = b"""{"command": ["true"], "limit": {"provider": 2}}
{"command": ["true"], "limits": ["provider", "maintenance=3"]}
{"command": ["true"]}
"""
    limited("submit", "--from", "-", "--limit", "maintenance", stdin=lines)

    assert [{"provider": 2}, {"provider": 1, "maintenance": 3}, {"maintenance": 1}] == [
        limited("show", number, "--json").json["limits"] for number in (1, 2, 3)
    ]


def test_a_limit_that_left_the_file_is_named_and_can_still_be_closed(limited: Command) -> None:
    limited("submit", "--limit", "provider", "--", "true")
    limited.configure("")

    gone = "limit provider is not configured: it limits nothing, but can still be closed"
    assert gone in limited("check-config").stderr
    assert gone in limited("why", "1").stdout
    assert [] == limited("limits", "--json").json

    limited("limit", "close", "provider")

    assert "limit_closed" == limited("why", "1", "--json").json["obstacles"][0]["obstacle"]
    (view,) = limited("limits", "--json").json
    assert not view["configured"]


def test_only_the_limit_of_a_queue_that_has_one_is_closed(command: Command) -> None:
    """No claim would look at another one."""
    command.configure("[queues.q]\nglobal_concurrency = 2\n[queues.other]\n")

    assert "queue:q is closed" in command("limit", "close", "queue:q").stdout
    assert "limit queue:q is closed" in command("status").stdout.replace("limit     ", "limit ")
    for queue in ("other", "unknown"):
        said = command("limit", "close", f"queue:{queue}", exits=1).stderr
        assert f"queue '{queue}' has no limit of its own; dispatcher pause {queue}" in said


def test_a_limit_is_not_closed_until_a_time_that_is_over(limited: Command) -> None:
    said = "until: is over already; give a later time, or none"
    assert said in limited("limit", "close", "provider", "--until", "0s", exits=1).stderr
    with limited.client() as client, pytest.raises(DispatcherError, match=said):
        client.close_limit("provider", until=WallTime(1_577_836_800_000))
    assert limited("limits", "--json").json[1]["closed_at"] is None
