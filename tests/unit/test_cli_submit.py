import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.cli import lines
from dispatcher.errors import InvalidTask
from dispatcher.model import Liveness
from dispatcher.task_checks import MAX_COMMAND, MAX_PAYLOAD
from dispatcher.times import coming, from_iso
from dispatcher.wire import KillMode
from tests.command import Command

#: What a submit reports where no daemon runs.
IDLE = "dispatcher: no daemon runs here, so nothing runs yet; start it: dispatcher run --detach\n"


def test_submit_prints_the_id_alone(command: Command) -> None:
    first = command("submit", "--", "echo", "hello")
    second = command("submit", "true")

    assert ("1\n", IDLE) == (first.stdout, first.stderr)
    assert "2\n" == second.stdout


def test_a_task_gets_the_configured_defaults_and_the_callers_directory(command: Command) -> None:
    command.configure(
        '[defaults]\nqueue = "slow"\npriority = 7\n'
        '[retry]\nmax_attempts = 5\n[leases]\nttl = "1.5s"\n'
    )

    task_id = command("submit", "--", "true").id

    with command.client() as client:
        task = client.task(task_id)
    assert task is not None
    assert ("slow", 7, 5, 1_500) == (
        task.queue,
        task.priority,
        task.max_attempts,
        task.lease_ttl_ms,
    )
    assert (str(Path.cwd()), {}, {}, None) == (task.cwd, task.env, task.labels, task.payload)
    assert Liveness.PROCESS == task.liveness


def test_every_option_reaches_the_task(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "from me")
    Path("job.json").write_text('{"job": 1}')

    task_id = command(
        *("submit", "--queue", "nightly", "--priority", "-3", "--max-attempts", "9"),
        *("--cwd", "sub", "--env", "A=b=c", "--env", "MINE", "--key", "once", "--delay", "1.5s"),
        *("--payload", "@job.json", "--label", "team=data", "--label", "empty="),
        *("--liveness", "worker", "--lease-ttl", "6s", "--notify", "--run-timeout", "10s"),
        *("--stall-timeout", "4s", "--start-timeout", "5s", "--queue-timeout", "1m"),
        *("--total-timeout", "1h", "--kill-grace", "0s", "--kill-signal", "usr1"),
        *("--backoff-min", "1s", "--backoff-max", "1m", "--cooldown", "0s"),
        *("--max-deferrals", "0", "--max-orphans", "9"),
        *("--", "sh", "-c", "exit 3", "--", "--queue"),
    ).id

    with command.client() as client:
        task = client.task(task_id)
    assert task is not None
    assert ("sh", "-c", "exit 3", "--", "--queue") == task.command
    assert task.notify
    assert ("nightly", -3, 9, "once") == (task.queue, task.priority, task.max_attempts, task.key)
    assert f"{Path.cwd()}/sub" == task.cwd
    assert {"A": "b=c", "MINE": "from me"} == task.env
    assert {"team": "data", "empty": ""} == task.labels
    assert '{"job": 1}' == task.payload
    assert task.created_at + 1_500 == task.run_at
    assert (10_000, 4_000, 5_000, 60_000, 3_600_000) == (
        *(task.run_timeout_ms, task.stall_timeout_ms, task.start_timeout_ms),
        *(task.queue_timeout_ms, task.total_timeout_ms),
    )
    assert (task.created_at + 3_600_000, 0, 10) == (
        *(task.fails_at, task.kill_grace_ms, task.kill_signal),
    )
    assert (1_000, 60_000, 0, 0, 9) == (
        *(task.backoff_min_ms, task.backoff_max_ms, task.cooldown_ms),
        *(task.max_deferrals, task.max_orphans),
    )


def test_the_usual_options_are_short(command: Command) -> None:
    task_id = command("submit", "-q", "ci", "-p", "4", "-l", "a=b", "-n", "mine", "true").id

    shown = command("show", task_id, "--json").json
    assert ("ci", 4, {"a": "b", "name": "mine"}) == (
        *(shown["queue"], shown["priority"], shown["labels"]),
    )
    (found,) = command("list", "--label", "name=mine", "--json").json
    assert task_id == found["id"]


def test_an_urgent_task_is_claimed_before_all_without_a_priority(command: Command) -> None:
    for words in ([], ["--urgent"], ["--priority", "1"]):
        command("submit", *words, "--", "true")

    claimed = [command("claim", "--json", "--lock-file", "lock").json["task_id"] for _ in range(3)]

    assert [2, 3, 1] == claimed


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("--at 2030-01-01", "--delay 1h", "--at and --delay both set when the task starts; give"),
        ("--urgent", "-p 3", "--urgent and --priority both set the priority; give one of"),
        ("-p 3", "--urgent", "--urgent and --priority both set the priority; give one of"),
        ("-l a=1", "-l a=2", "label: a is given twice; give it once"),
        ("-l name=foo", "-n bar", "label: the option name sets the label name too"),
        ("--env HOME=/", "--env HOME", "env: HOME is given twice; give it once"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    command: Command, first: str, second: str, message: str
) -> None:
    words = [*first.split(), *second.split()]
    assert message in command("submit", *words, "--", "true", exits=2).stderr
    Path("job.sh").write_text(f"#!/bin/sh\n#DISPATCHER {first}\n")
    command("submit", "--script", "job.sh", *second.split())  # the command line overrides a script
    with Path("job.sh").open("a") as script:
        script.write(f"#DISPATCHER {second}\n")
    found = command("submit", "--script", "job.sh", exits=2).stderr
    assert f"script: job.sh:3: {message}" in found
    assert 1 == len(command("list", "--json").json)
    changed = command("edit", 1, *words, exits=2).stderr
    assert message in changed


@pytest.mark.parametrize(
    ("given", "number"), [("INT", 2), ("SIGINT", 2), ("sigint", 2), ("2", 2), ("40", 40)]
)
def test_a_kill_signal_has_a_name_or_a_number(command: Command, given: str, number: int) -> None:
    task_id = command("submit", "--kill-signal", given, "--", "true").id

    assert number == command("show", task_id, "--json").json["kill_signal"]


def test_options_after_the_command_belong_to_the_command(command: Command) -> None:
    task_id = command("submit", "--queue", "q", "ls", "--json", "-l").id

    assert ["ls", "--json", "-l"] == command("show", task_id, "--json").json["command"]


def test_a_payload_comes_from_stdin_or_in_place(command: Command) -> None:
    from_stdin = command("submit", "--payload", "-", "--", "cat", stdin=b"[1, 2]").id
    in_place = command("submit", "--payload", '"text"', "--", "cat").id

    assert [1, 2] == command("show", from_stdin, "--json").json["payload"]
    assert "text" == command("show", in_place, "--json").json["payload"]


def test_the_same_key_gives_the_same_task(command: Command) -> None:
    first = command("submit", "--key", "k", "--", "true").id
    again = command("submit", "--key", "k", "--json", "--", "true").json
    elsewhere = command("submit", "--key", "k", "--queue", "other", "--json", "--", "true").json

    assert {"id": first, "created": False, "differs": []} == again
    assert elsewhere["created"]
    assert elsewhere["id"] > first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", ""], "command: is empty"),
        (
            ["--queue", "a b", "--", "x"],
            "queue: 'a b' is not a name; use up to 100 letters, digits",
        ),
        (["--queue", "", "--", "x"], "queue: '' is not a name"),
        (["--queue", "q" * 101, "--", "x"], "queue: 101 bytes are more than 100"),
        (
            ["--priority", "2147483648", "--", "x"],
            "priority: must be from -2147483648 to 2147483647",
        ),
        (["-n", "x" * 256, "--", "x"], "label name: 256 bytes are more than 255"),
        (["--delay", "5", "--", "x"], '5 is a plain number; add its unit, e.g. "5s"'),
        (["--delay", "9999d", "--", "x"], "delay: must be from 0s to"),
        (["--run-timeout", "5", "--", "x"], '5 is a plain number; add its unit, e.g. "5s"'),
        (["--run-timeout", "0s", "--", "x"], "run_timeout: must be above 0; leave it out"),
        (["--queue-timeout", "9999d", "--", "x"], "queue_timeout: 9999d is longer than 3650d"),
        (
            ["--run-timeout", "10s", "--total-timeout", "5s", "--", "x"],
            "run_timeout: 10s is longer than total_timeout (5s), which would come first; lower it",
        ),
        (
            ["--queue-timeout", "10s", "--total-timeout", "5s", "--", "x"],
            "queue_timeout: 10s is longer than total_timeout (5s)",
        ),
        (
            ["--stall-timeout", "10s", "--run-timeout", "5s", "--", "x"],
            "stall_timeout: 10s is longer than run_timeout (5s)",
        ),
        (
            [*("--liveness", "worker", "--lease-ttl", "5s"), "--start-timeout", "10s", "x"],
            "start_timeout: 10s is longer than lease_ttl (5s)",
        ),
        (
            ["--delay", "5s", "--total-timeout", "5s", "--", "x"],
            "delay: 5s leaves nothing of total_timeout (5s), which counts from now",
        ),
        (["--kill-signal", "HUPP", "--", "x"], "'HUPP' is not a signal; `kill -l` lists them, for"),
        (["--kill-signal", "0", "--", "x"], "'0' is not a signal"),
        (["--kill-signal", "65", "--", "x"], "'65' is not a signal"),
        (["--kill-signal", "SIGSTOP", "--", "x"], "STOP ends nothing; name for example INT"),
        (["--kill-grace", "-1s", "--", "x"], "'-1s' is not a duration"),
        (["--env", "=x", "--", "x"], "env: '' is not a name of a variable"),
        (
            ["--env", "A-B=x", "--", "x"],
            "env: 'A-B' is not a name of a variable; use letters, digits",
        ),
        (["--label", "a b=c", "--", "x"], "label: 'a b' is not a name"),
        (["--key", "k" * 256, "--", "x"], "key: 256 bytes are more than 255"),
        (
            ["--payload", '"\\ud800"', "--", "x"],
            "payload: not JSON: \\ud800 is half of a surrogate",
        ),
        (["--payload", "{", "--", "x"], "payload: not JSON: it ends too early"),
        (["--payload", "NaN", "--", "x"], "payload: not JSON"),
        (["--cwd", "x" * 4096, "--", "x"], "cwd: "),
        (["--form", "x"], "No such option '--form'. (Did you mean one of: '--after', '--from'?)"),
        (["--from", "none.jsonl"], "from: none.jsonl: No such file or directory"),
        (["--from", "-", "--key", "k"], "with --from, command and key stand in the file's lines"),
        (
            ["--", "x" * MAX_COMMAND],
            f"command: {MAX_COMMAND + 1} bytes are more than {MAX_COMMAND}",
        ),
        (["--", *["x" * 1023] * 129], "pass what is long as the payload, or in a file"),
        (["--", "a\udcff"], "command: is not UTF-8"),
        (["--env", "A=\udcff", "--", "x"], "env A: is not UTF-8"),
        (["--label", "a=\udcff", "--", "x"], "label a: is not UTF-8"),
        (["--cwd", "/\udcff", "--", "x"], "cwd: is not UTF-8"),
        (["--payload", '"\udcff"', "--", "x"], "payload: is not UTF-8"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_the_remedy_and_nothing_is_submitted(
    command: Command, arguments: list[str], message: str
) -> None:
    result = command("submit", *arguments, exits=2)

    assert "" == result.stdout
    assert message in result.stderr
    assert result.stderr.startswith("dispatcher: ")
    assert 1 == len(result.stderr.splitlines())
    assert [] == command("list", "--json").json


def test_a_refused_secret_is_not_repeated(command: Command) -> None:
    result = command("submit", "--env", "TOKEN=hunter2\udcff", "--", "true", exits=2)

    assert "hunter2" not in result.stderr


@pytest.mark.parametrize("size", [MAX_PAYLOAD, MAX_PAYLOAD + 1])
@pytest.mark.parametrize("source", ["-", "@payload.json"])
def test_a_payload_has_at_most_a_mebibyte(command: Command, size: int, source: str) -> None:
    payload = b'"' + b"x" * (size - 2) + b'"'
    Path("payload.json").write_bytes(payload)
    fits = size == MAX_PAYLOAD

    result = command(
        "submit", "--payload", source, "--", "cat", stdin=payload, exits=0 if fits else 2
    )

    assert fits or "payload: 1048577 bytes are more than 1048576" in result.stderr


def test_a_deeply_nested_payload_is_reported(command: Command) -> None:
    result = command("submit", "--payload", "-", "--", "cat", stdin=b"[" * 100_000, exits=2)

    assert "payload: is nested too deeply; write" in result.stderr


def test_waiting_reports_the_tasks_that_did_not_succeed(command: Command) -> None:
    lines = b'{"command": ["true"], "key": "%d"}\n'
    command("submit", "--from", "-", stdin=b"".join(lines % n for n in range(3)))
    command("hold", 1, "--reason", "disk is full")
    command("cancel", 2)
    command("claim", "--task", 3, "--lock-file", "lock")
    command("complete", "--task", 3, "--lock-file", "lock")

    again = ("submit", "--wait", "--from", "-")
    waited = command(*again, exits=1, stdin=b"".join(lines % n for n in range(3)))

    assert [
        "dispatcher: task 1 held: disk is full; dispatcher why 1",
        "dispatcher: task 2 cancelled: cancelled by an operator; dispatcher why 2",
    ] == waited.stderr.splitlines()
    good = command(*again, "--json", stdin=lines % 2).json
    assert [("succeeded", "succeeded", None)] == [
        (one["state"], one["outcome"], one["exit_code"]) for one in good
    ]


def test_a_line_may_write_labels_as_list_does(command: Command) -> None:
    command("submit", "--from", "-", stdin=b'{"command": ["true"], "labels": {"team": "data"}}')

    assert {"team": "data"} == command("show", 1, "--json").json["labels"]


def test_a_key_with_another_command_or_payload_is_reported_and_the_first_task_stays(
    command: Command,
) -> None:
    first = command("submit", "--key", "k", "--payload", "1", "--", "echo", "a").id
    same = command("submit", "--key", "k", "--payload", "1", "--", "echo", "a")
    others = {
        "command": ("--payload", "1", "--", "echo", "b"),
        "payload": ("--payload", "2", "--", "echo", "a"),
        "command and payload": ("--", "echo", "b"),
    }

    assert ("1\n", IDLE) == (same.stdout, same.stderr)
    for what, words in others.items():
        other = command("submit", "--key", "k", *words)
        message = f"task 1 has this key already, with another {what}; nothing was submitted"
        assert ("1\n", f"dispatcher: {message}: new work needs a new key\n{IDLE}") == (
            other.stdout,
            other.stderr,
        )
    as_json = command("submit", "--key", "k", "--json", "--", "true").json
    assert {"id": first, "created": False, "differs": ["command", "payload"]} == as_json
    assert ["echo", "a"] == command("show", first, "--json").json["command"]


def test_ten_of_many_keys_with_other_commands_are_named_and_the_rest_counted(
    command: Command,
) -> None:
    def lines(word: str) -> bytes:
        return b"".join(
            b'{"command": ["%s"], "key": "%d"}\n' % (word.encode(), n) for n in range(12)
        )

    command("submit", "--from", "-", stdin=lines("true"))

    message = command("submit", "--from", "-", stdin=lines("false")).stderr.splitlines()

    assert 12 == len(message)
    assert "task 10 has this key already" in message[9]
    assert "dispatcher: and so have 2 more; --json names each" == message[10]


def test_a_kill_mode_is_the_tasks_and_is_shown(command: Command) -> None:
    command.configure('[profiles.serve]\ncommand = ["true"]\nkill_mode = "leader"')
    line = b'{"command": ["true"], "kill_mode": "leader"}'
    ids = [
        command("submit", "--kill-mode", "leader", "--kill-signal", "INT", "--", "true").id,
        command("submit", "--profile", "serve").id,
        command("submit", "--from", "-", stdin=line).id,
    ]

    for task_id in ids:
        assert "leader" == command("show", task_id, "--json").json["kill_mode"]
    assert "ended by   SIGINT to the first process alone" in command("show", ids[0]).stdout
    assert "ended by   SIGTERM to the first process alone" in command("show", ids[1]).stdout
    with command.client() as client:
        claimed = client.claim(task_id=ids[0])
        assert claimed is not None
        assert KillMode.LEADER is claimed.kill_mode
    other = line.replace(b"leader", b"laeder")
    message = command("submit", "--from", "-", stdin=other, exits=2).stderr
    assert "line 1: kill_mode: 'laeder' is not tree or leader; did you mean 'leader'?" in message


def test_a_wrong_kill_mode_of_a_program_is_reported(command: Command) -> None:
    with command.client() as client, pytest.raises(InvalidTask, match="kill_mode: 'x' is not tree"):
        client.submit(command=["true"], kill_mode="x")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "=3"], "env: '' is not a name of a variable; use letters, digits and _"),
        (["--cwd", "/a\nb"], r"cwd: '/a\nb' holds a line break or another control character"),
        (["--label", "a=\udcff"], "label a: is not UTF-8; encode it so"),
        (["--queue", "\udcff"], "queue: is not UTF-8; encode it so"),
        (["--lease-ttl", "199ms"], "lease_ttl: must be from 200ms to 3650d, not 199ms"),
    ],
)
def test_an_invalid_option_is_refused_in_words(
    command: Command, words: list[str], message: str
) -> None:
    assert message in command("submit", *words, "--", "true", exits=2).stderr
    assert [] == command("list", "--json").json


# Starts at a time --------------------------------------------------------------------------


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a zone two hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EET-2")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("23:00", "2026-08-01T21:00:00Z"),
        ("12:00", "2026-08-02T10:00:00Z"),
        ("7:30", "2026-08-02T05:30:00Z"),
        ("12:00:01", "2026-08-01T10:00:01Z"),
        ("2026-08-03", "2026-08-02T22:00:00Z"),
        ("2026-08-01T23:00", "2026-08-01T21:00:00Z"),
        ("2026-08-01T23:00Z", "2026-08-01T23:00:00Z"),
    ],
)
def test_a_time_of_day_is_the_next_one_in_the_users_zone(text: str, moment: str) -> None:
    assert from_iso(moment) == coming(text, from_iso("2026-08-01T10:00:00Z"))


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("23:00Z", "2026-08-01T23:00Z"),
        ("22:00Z", "2026-08-02T22:00Z"),
        ("04:00", "2026-08-02T02:00Z"),
    ],
)
def test_the_day_of_a_time_with_a_zone_is_that_of_its_zone(text: str, moment: str) -> None:
    """It is 0:30 on the second in the user's zone."""
    assert from_iso(moment) == coming(text, from_iso("2026-08-01T22:30:00Z"))


def test_a_time_of_a_line_is_kept_as_it_is(command: Command) -> None:
    config, line = command.client().config, b'{"command": ["true"], "at": "2030-01-01T00:00Z"}'

    (task,) = lines.read([line], config, {"delay_ms": 5}, {})

    assert (0, from_iso("2030-01-01T00:00Z")) == (task.delay_ms, task.start_at)


def test_a_time_that_leaves_nothing_of_the_total_time_out_is_refused(command: Command) -> None:
    words = ("--at", "2030-01-01", "--total-timeout", "1h", "--", "true")

    message = command("submit", *words, exits=2).stderr

    assert "at: leaves nothing of total_timeout (1h), which counts from now; name an" in message


def test_a_task_starts_at_the_given_time(command: Command) -> None:
    Path("job.sh").write_text("#!/bin/sh\n#DISPATCHER --delay 1h\n")
    at = from_iso("2030-01-01T00:00:00Z")
    line = b'{"command": ["true"], "at": "2030-01-01T00:00Z"}\n{"command": ["true"]}'

    command("submit", "--at", "2030-01-01T00:00Z", "--", "true")
    command("submit", "--script", "job.sh", "--at", "2030-01-01T00:00Z")
    command("submit", "--delay", "1h", "--from", "-", stdin=line)
    command("edit", 4, "--at", "2030-01-01T00:00Z")

    with command.client() as client:
        tasks = [client.task(number) for number in (1, 2, 3, 4)]
    assert [0] * 4 == [round((task.run_at - at) / 3_600_000) for task in tasks if task]
    assert ["scheduled"] * 4 == [task.state for task in tasks if task]
    Path("job.sh").write_text("#!/bin/sh\n#DISPATCHER --at 2030-01-01T00:00Z\n")
    task_id = command("submit", "--script", "job.sh", "--delay", "0s").id
    assert "ready" == command("show", task_id, "--json").json["state"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", "'soon' is not a time; write a time of the day, e.g. \"23:00\", or a date, e.g."),
        ("25:00", "'25:00' is not a time; write"),
        ("2h", "'2h' is not a time; write"),
        ("2020-01-01", "'2020-01-01' is over; leave it out, or write a time to come"),
        ("9999-12-31", "'9999-12-31' is more than 3650d from now; write an earlier time"),
    ],
)
def test_a_time_that_cannot_come_is_refused(command: Command, text: str, message: str) -> None:
    assert message in command("submit", "--at", text, "--", "true", exits=2).stderr
    line = f'{{"command": ["true"], "at": "{text}"}}'.encode()
    assert f"line 1: at: {message}" in command("submit", "--from", "-", stdin=line, exits=2).stderr
    both = b'{"command": ["true"], "at": "23:00", "delay": "1h"}'
    assert "line 1: at: delay sets" in command("submit", "--from", "-", stdin=both, exits=2).stderr
