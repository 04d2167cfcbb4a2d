import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.cli import render
from dispatcher.model import Outcome, TaskState
from dispatcher.times import StoreTime
from tests.command import Command

#: The keys that other programs rely on.
TASK_KEYS = (
    "id state reason queue priority command attempts_used max_attempts fence created_at run_at"
)
RUN_KEYS = (
    "id uid attempt fence outcome exit_code signal pid node claimed_at started_at ended_at "
    "last_heartbeat_at lease_expires_at progress note result error output_tail max_rss_bytes "
    "cpu_seconds output_path output_is_gone left_alone leftovers output_truncated output_dropped"
)

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_show_names_the_waiting_that_is_worth_a_point_of_priority(command: Command) -> None:
    command.configure('[queues.builds]\nageing = "10m"')
    command("submit", "--queue", "builds", "--priority", 2, "--", "true")
    command("submit", "--", "true")

    assert "builds, priority 2, 10m a point" in command("show", 1).stdout
    assert 600_000 == command("show", 1, "--json").json["ageing_ms"]
    assert " a point" not in command("show", 2).stdout


def test_show_as_json_has_every_key_of_the_contract(command: Command) -> None:
    command("submit", "--env", "TOKEN=hunter2", "--", "sh", "-c", "exit 3")
    lock, file = command.run_once(output=b"hello\n", tail="hello\n")

    result = command("show", 1, "--json")

    task = result.json
    assert TASK_KEYS.split() == list(task)[:11]
    assert "runs" == list(task)[-1]
    assert (1, "failed", "used up its attempts", ["sh", "-c", "exit 3"], 1, 3, 1) == tuple(
        task[key]
        for key in ("id", "state", "reason", "command", "attempts_used", "max_attempts", "fence")
    )
    (run,) = task["runs"]
    assert RUN_KEYS.split() == list(run)
    assert (1, 1, 1, "failed", 3, None, 4321, "this-node", "hello\n", str(file)) == tuple(
        run[key]
        for key in (
            *("id", "attempt", "fence", "outcome", "exit_code", "signal", "pid", "node"),
            *("output_tail", "output_path"),
        )
    )
    for time in (task["created_at"], task["run_at"], run["claimed_at"], run["ended_at"]):
        assert ISO.fullmatch(time)
    assert lock not in result.stdout
    assert "hunter2" not in result.stdout
    assert ["TOKEN"] == task["env"]


def test_show_tells_what_happened_to_a_task_and_who_did_it(command: Command) -> None:
    command("submit", "--", "true")
    assert "WHO" not in command("show", 1).stdout
    command("hold", 1, "--reason", "disk is full")
    for _ in range(10):
        command("release", 1)
        command("hold", 1)

    shown = command("show", 1).stdout.splitlines()
    events = command("show", 1, "--json").json["events"]

    heading = next(number for number, line in enumerate(shown) if "WHO" in line)
    assert ["WHEN", "EVENT", "STATE", "WHO", "WHY"] == shown[heading].split()
    assert "ready -> held" in shown[-2]
    assert shown[-2].endswith("held by an operator")
    assert "earlier events: 2; dispatcher events --task 1" == shown[-1]
    assert 20 == len(shown[heading + 1 : -1])
    assert 22 == len(events)
    assert ["submit", "hold"] == [one["event"] for one in events[:2]]
    assert "disk is full" == events[1]["reason"]


def test_runs_stand_oldest_first(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(state=TaskState.READY)
    command.run_once()

    assert [1, 2] == [run["fence"] for run in command("show", 1, "--json").json["runs"]]


@pytest.mark.parametrize(
    ("output", "stored", "shown"),
    [
        (b"x" * 5_000 + b"end\n", None, "x" * 4_092 + "end\n"),
        (b"short", None, "short"),
        (b"broken \xff\n", None, "broken \ufffd\n"),
        (b"from the file", "stored", "stored"),
        (None, "stored", "stored"),
        (None, None, None),
    ],
)
def test_the_end_of_the_output_comes_from_the_row_or_if_missing_there_from_the_file(
    command: Command, output: bytes | None, stored: str | None, shown: str | None
) -> None:
    command("submit", "--", "true")
    command.run_once(output=output, tail=stored)

    assert shown == command("show", 1, "--json").json["runs"][0]["output_tail"]


def test_show_for_people_names_what_matters_and_spells_out_control_characters(
    command: Command,
) -> None:
    command(
        *("submit", "--env", "TOKEN=hunter2", "--label", "team=data", "--key", "k"),
        *("--", "printf", "\x1b[31mred"),
    )
    lock, _ = command.run_once(output=b"\x1b]0;title\x07ok\n")

    shown = command("show", 1).stdout

    for text in ("failed: used up its attempts", "1 of 3 used", "team=data", "exit code 3", "4321"):
        assert text in shown
    assert r"\x1b[31mred" in shown
    assert r"\x1b]0;title\x07ok" in shown
    assert "\x1b" not in shown
    assert "hunter2" not in shown
    assert lock not in shown


def test_time_outs_and_how_a_run_is_ended_are_shown_where_a_task_has_its_own(
    command: Command,
) -> None:
    command("submit", "--", "true")
    command(
        *("submit", "--run-timeout", "90s", "--queue-timeout", "1h", "--kill-grace", "3s"),
        *("--kill-signal", "40", "--", "true"),
    )

    plain, bounded = command("show", 1).stdout, command("show", 2).stdout
    shown = command("show", 2, "--json").json

    assert "time-outs" not in plain
    assert "time-outs  run 90s, queue 1h" in bounded
    assert "signal 40, SIGKILL after 3s" in bounded
    assert (90_000, None, 3_600_000, 3_000, 40) == tuple(
        shown[key]
        for key in (
            *("run_timeout_ms", "stall_timeout_ms", "queue_timeout_ms"),
            *("kill_grace_ms", "kill_signal"),
        )
    )
    assert re.search(r"fails      in (1 h|5\d min)\n", bounded)
    assert f"fails      {shown['fails_at']}" in command("show", 2, "--absolute").stdout


def test_a_retry_policy_is_shown_where_it_differs_from_the_built_in_one(command: Command) -> None:
    command("submit", "--cooldown", "1m", "--max-orphans", "5", "--", "true")
    command.configure('[retry]\nbackoff_max = "2m"\nmax_deferrals = 7')
    command("submit", "--max-orphans", "0", "--", "true")

    plain, changed = (command("show", task_id).stdout for task_id in (1, 2))
    assert "retries" not in plain
    assert "retries    backoff-max 2m, max-deferrals 7, max-orphans 0\n" in changed
    keys = ("backoff_min_ms", "backoff_max_ms", "cooldown_ms", "max_deferrals", "max_orphans")
    shown = [command("show", task_id, "--json").json for task_id in (1, 2)]
    assert [[None] * 5, [None, 120_000, None, 7, 0]] == [
        [one[key] for key in keys] for one in shown
    ]


@pytest.mark.parametrize("verb", ["show", "logs", "cancel", "retry"])
def test_an_unknown_id_is_reported(command: Command, verb: str) -> None:
    result = command(verb, 42, exits=1)

    assert result.stderr.startswith("dispatcher: no task 42; ")
    assert "" == result.stdout


def ids(result: Any) -> list[int]:
    return [task["id"] for task in result.json]


def test_list_filters_and_shows_the_newest_first(command: Command) -> None:
    command("submit", "--queue", "a", "--label", "team=data", "--", "true")
    command("submit", "--queue", "b", "--delay", "1h", "--", "true")
    command("submit", "--queue", "b", "--label", "team=web", "--", "true")
    command("cancel", 3)

    assert [3, 2, 1] == ids(command("list", "--json"))
    assert [3, 2] == ids(command("list", "--json", "--limit", 2))
    assert [3, 2] == ids(command("list", "--json", "--queue", "b"))
    assert [2, 1] == ids(command("list", "--json", "--state", "ready", "--state", "scheduled"))
    assert [1] == ids(command("list", "--json", "--label", "team=data"))
    assert [] == ids(command("list", "--json", "--state", "held"))


def test_list_as_json_is_show_without_runs_and_payload(command: Command) -> None:
    command("submit", "--payload", "1", "--", "true")

    (listed,) = command("list", "--json").json
    shown = command("show", 1, "--json").json

    assert "daemon_not_running" == listed.pop("obstacle")
    more = {"environment", "payload", "events", "runs", "parents", "children"}
    more |= {"checkpoint", "question", "question_kind", "answer"}
    assert {*listed, *more} == set(shown)
    assert listed.items() <= shown.items()


def test_list_for_people_is_a_table_of_whole_lines(command: Command) -> None:
    command("submit", "--", "echo", "x" * 300, "two\nlines", "[bold]")

    heading, row = command("list").stdout.splitlines()

    headings = "ID STATE QUEUE PRIORITY TIME DETAIL COMMAND"
    assert headings.split() == heading.split()
    assert row.endswith(f"echo {'x' * 300} 'two\\nlines' '[bold]'")


def test_list_filters_by_profile_and_by_text_in_the_command(command: Command) -> None:
    command.configure('[profiles.zip]\ncommand = ["gzip", "-k", "{file}"]')
    command("submit", "--profile", "zip", "--payload", '{"file": "big.log"}')
    command("submit", "--", "sh", "-c", "echo 'big \"log\"'; gzip -k x")

    assert [1] == ids(command("list", "--json", "--profile", "zip"))
    assert [2, 1] == ids(command("list", "--json", "--text", "gzip -k"))
    assert [1] == ids(command("list", "--json", "--text", "k big.log"))
    assert [2] == ids(command("list", "--json", "--text", 'big "log"'))
    assert [] == ids(command("list", "--json", "--text", '","'))


def test_list_takes_times_as_dates_and_as_how_long_ago_they_were(command: Command) -> None:
    for _ in range(3):
        command("submit", "--", "true")
    with command.client() as client, client.store.transaction() as now:
        engine = client.store.engine  # type: ignore[attr-defined]
        for task_id, hours in ((1, 48), (2, 3), (3, 0)):
            then = {"id": task_id, "then": now - hours * 3_600_000}
            engine.change("UPDATE tasks SET created_at = :then WHERE id = :id", then)
    three_hours_ago = command("show", 2, "--json").json["created_at"]

    assert [3] == ids(command("list", "--json", "--since", "2h"))
    assert [2, 1] == ids(command("list", "--json", "--until", "2h"))
    assert [2] == ids(command("list", "--json", "--since", "2d", "--until", "90m", "--limit", 1))
    assert [3, 2] == ids(command("list", "--json", "--since", three_hours_ago))
    assert [1] == ids(command("list", "--json", "--until", three_hours_ago))
    assert [] == ids(command("list", "--json", "--until", "2001-01-01"))
    shown = "".join(command("show", n).stdout for n in (2, 1))
    assert ["3 h ago", "2 d ago"] == re.findall(r"submitted +(.*)", shown)
    assert three_hours_ago in command("show", 2, "--absolute").stdout


def test_list_starts_with_the_oldest_on_request_and_prints_json_by_the_line(
    command: Command,
) -> None:
    for _ in range(3):
        command("submit", "--", "true")

    printed = command("list", "--oldest-first", "--limit", 2, "--json-lines").stdout

    assert [1, 2] == [json.loads(line)["id"] for line in printed.splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (-59, "59 s ago"),
        (0.4, "now"),
        (95, "in 1 min 35 s"),
        (1_780, "in 30 min"),
        (3_570, "in 1 h"),
        (5_700, "in 1 h 35 min"),
        (7_195, "in 2 h"),
        (86_400 + 7_000, "in 1 d 2 h"),
        (-60, "1 min ago"),
        (-3_599, "59 min ago"),
        (7_200, "in 2 h"),
        (-86_400 * 400, "400 d ago"),
    ],
)
def test_times_are_printed_as_people_write_them(seconds: float, text: str) -> None:
    now = StoreTime(2_000_000_000_000)

    assert text == render.ago(StoreTime(now + round(seconds * 1000)), now)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "3"], "'3' is not a time"),
        (["--limit", "0"], "0 is not in the range 1<=x<="),
        (["--quue", "x"], "No such option '--quue'. Did you mean '--queue'?"),
    ],
)
def test_list_reports_mistakes(command: Command, arguments: list[str], message: str) -> None:
    assert message in command("list", *arguments, exits=2).stderr


def test_logs_prints_the_last_runs_output_or_that_of_the_run_named(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(state=TaskState.READY, output=b"first\n")
    command.run_once(output=b"second\n")

    assert "second\n" == command("logs", 1).stdout
    assert "first\n" == command("logs", 1, "--run", 1).stdout


def test_logs_falls_back_to_what_the_row_keeps(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(output=None, tail="the end\n")

    result = command("logs", 1)

    assert "the end\n" == result.stdout
    assert (
        "is gone (its worker, a person, or [output] total_budget or free_floor removed it)"
        in result.stderr
    )
    assert "last output of run 1 (the rest was removed):\nthe end" in command("show", 1).stdout
    assert command("show", 1, "--json").json["runs"][0]["output_is_gone"]


def test_logs_explains_why_there_is_no_output(command: Command) -> None:
    command("submit", "--", "true")
    waiting = command("logs", 1, exits=1).stderr
    command.run_once(output=None)

    assert waiting.startswith("dispatcher: task 1 has not run yet: ready, submitted; ")
    assert "is gone, and nothing was kept" in command("logs", 1, exits=1).stderr
    unknown = command("logs", 1, "--run", 9, exits=1).stderr
    assert "dispatcher: task 1 has no run 9; its runs: 1\n" == unknown


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_logs_of_a_task_that_ended_without_a_run_names_no_wait(
    command: Command, follow: list[str]
) -> None:
    command("submit", "--", "true")
    command("cancel", 1)

    reported = command("logs", *follow, 1, exits=1).stderr

    assert "dispatcher: task 1 never ran: cancelled, cancelled by an operator\n" == reported


def test_list_reports_on_stderr_that_there_is_more(command: Command) -> None:
    lines = b'{"command": ["true"], "queue": "a"}\n' * 4 + b'{"command": ["false"]}\n'
    command("submit", "--from", "-", stdin=lines)

    two, json_lines = command("list", "--limit", 2), command("list", "--limit", 3, "--json-lines")
    found = command("list", "--text", "true", "--limit", 2)
    in_queue = command("list", "--queue", "a", "--state", "ready", "--limit", 1, "--json")

    assert (3, "dispatcher: 2 of 5; --limit N shows more\n") == (
        len(two.stdout.splitlines()),
        two.stderr,
    )
    assert (3, "dispatcher: 3 of 5; --limit N shows more\n") == (
        len(json_lines.stdout.splitlines()),
        json_lines.stderr,
    )
    assert (3, "dispatcher: 2 of 4; --limit N shows more\n") == (
        len(found.stdout.splitlines()),
        found.stderr,
    )
    more = "dispatcher: 2 shown, and there are more; --limit N shows more\n"
    assert more == command("list", "--text", "true", "--limit", 2, "--json").stderr
    assert (1, "dispatcher: 1 of 4; --limit N shows more\n") == (
        len(in_queue.json),
        in_queue.stderr,
    )
    assert "" == command("list", "--limit", 5).stderr


def test_an_empty_list_is_reported_on_stderr_with_the_queue_that_was_meant(
    command: Command,
) -> None:
    nothing = command("list")
    command("submit", "--queue", "nightly", "--", "true")

    misspelt = command("list", "--queue", "nightl", "--json")
    none_failed = command("list", "--queue", "nightly", "--state", "failed")

    assert ("", "dispatcher: no tasks\n") == (nothing.stdout, nothing.stderr)
    assert [] == misspelt.json
    meant = "dispatcher: no tasks in queue 'nightl'; did you mean 'nightly'?\n"
    assert meant == misspelt.stderr
    assert "dispatcher: no task in queue 'nightly' is failed (1 other)\n" == none_failed.stderr


@pytest.mark.parametrize(
    ("filters", "reported"),
    [
        (["--label", "zz=1"], "no task matches (2 others)"),
        (["--text", "needle"], "no task matches (2 others)"),
        (["--state", "running", "--state", "held"], "no task is running or held (2 others)"),
        (["--queue", "a", "--label", "zz=1"], "no task in queue 'a' matches (1 other)"),
        (["--text", "x", "--state", "failed"], "no task matches and is failed (2 others)"),
        (["--state", "failed", "--oldest-first", "--limit", 3], "no task is failed (2 others)"),
        (["--state", "failed", "--json"], "no task is failed (2 others)"),
    ],
)
def test_an_empty_list_counts_the_tasks_that_its_filter_leaves_out(
    command: Command, filters: list[str], reported: str
) -> None:
    for queue in "ab":
        command("submit", "--queue", queue, "--", "true")

    assert f"dispatcher: {reported}\n" == command("list", *filters).stderr


def test_an_empty_list_is_reported_although_the_configuration_has_a_mistake(
    command: Command,
) -> None:
    command("submit", "--queue", "nightly", "--", "true")
    command.configure("[queues.mornings]\nconcurrency = -1")

    misspelt = command("list", "--queue", "nightl")

    meant = "dispatcher: no tasks in queue 'nightl'; did you mean 'nightly'?"
    assert meant == misspelt.stderr.splitlines()[-1]


def test_a_long_reason_is_cut_in_a_list_and_whole_in_show(command: Command) -> None:
    command("submit", "--", "true")
    command("hold", 1, "--reason", f"not in {':/bin' * 60}\tend")

    assert 1 == command("list").stdout.count("…")
    assert "bin\\tend" not in command("list").stdout
    assert "bin\\tend" in command("show", 1).stdout


def test_tabs_and_newlines_do_not_break_a_table(command: Command) -> None:
    command("submit", "--label", "a=b\tc", "--", "printf", "one\ttwo\nthree")

    assert r"printf 'one\ttwo\nthree'" in command("list").stdout
    assert r"  command    printf 'one\ttwo\nthree'" in command("show", 1).stdout
    assert r"a=b\tc" in command("show", 1).stdout


def test_cpu_seconds_are_rounded_to_what_was_measured(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once()
    with command.client() as client:
        (run,) = client.runs(1)
        calendar = client.calendar()

    run = replace(run, cpu_seconds=0.0009149999999999999)

    assert 0.000915 == render.run_json(run, calendar)["cpu_seconds"]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"one\ntwo\nthree\n", b"two\nthree\n"),
        (b"one\ntwo\nthree", b"two\nthree"),
        (b"one\n\n\n", b"\n\n"),
        (b"one\n", b"one\n"),
        (b"", b""),
        (b"x" * 100_000 + b"\n" + b"y" * 100_000 + b"\nz\n", b"y" * 100_000 + b"\nz\n"),
    ],
)
def test_logs_from_the_last_lines_on(command: Command, written: bytes, shown: bytes) -> None:
    command("submit", "--", "true")
    command.run_once(output=written)

    assert shown.decode() == command("logs", 1, "-n", 2).stdout
    assert shown.decode() == command("logs", 1, "--tail", 2, "-f").stdout


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("a\nb\n", ["a", "b"]),
        ("10 %\r50 %\r100 %\n", ["100 %"]),
        ("100 %\rok\n", ["ok0 %"]),  # as a terminal shows it
        ("a\r\nb\r\n", ["a", "b"]),
        ("", [""]),
    ],
)
def test_output_is_shown_as_a_terminal_leaves_it(written: str, lines: list[str]) -> None:
    assert lines == render.as_on_a_terminal(written)


def test_show_ends_with_the_last_ten_lines(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(output=None, tail="".join(f"step {n}\r\n" for n in range(30)))

    shown = command("show", 1).stdout.rpartition("last output")[2].splitlines()[1:]
    assert [f"step {n}" for n in range(20, 30)] == shown


def test_the_output_of_a_moved_state_directory_is_found_where_it_is_now(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(output=b"hello\n", state=TaskState.SUCCEEDED, outcome=Outcome.SUCCEEDED)
    with command.client() as client:
        path = Path(client.runs(1)[0].output_path)
        with client.store.transaction():
            client.store.engine.change("UPDATE runs SET output_path = '/before/' || uid || '.log'")

    assert "hello\n" == command("logs", 1).stdout
    assert str(path) == command("show", 1, "--json").json["runs"][0]["output_path"]
    command("prune", "--older-than", "0s", "--state", "succeeded")
    assert not path.exists()


def test_a_fifo_in_place_of_an_output_holds_up_no_verb(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(output=b"hello\n", state=TaskState.SUCCEEDED, outcome=Outcome.SUCCEEDED)
    with command.client() as client:
        path = Path(client.runs(1)[0].output_path)
    path.unlink()
    os.mkfifo(path)

    assert "not a regular file" in command("logs", 1, exits=1).stderr
    command("show", 1)
