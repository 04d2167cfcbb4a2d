from collections.abc import Callable

import pytest

from dispatcher.cli import waiting as cli_waiting
from dispatcher.model import Outcome, TaskState
from dispatcher.operations import waiting
from tests.command import Command


@pytest.fixture
def succeed(command: Command) -> Callable[[int], None]:
    def succeed(task_id: int) -> None:
        command("claim", "--task", task_id, "--lock-file", "lock")
        command("complete", "--task", task_id, "--lock-file", "lock")

    return succeed


def test_a_wait_for_what_has_succeeded_exits_0(
    command: Command, succeed: Callable[[int], None]
) -> None:
    for _ in range(2):
        succeed(command("submit", "--", "true").id)

    waited = command("wait", 2, 1)

    assert ("1 succeeded\n2 succeeded\n", "") == (waited.stdout, waited.stderr)
    assert [
        {
            "id": 1,
            "state": "succeeded",
            "outcome": "succeeded",
            "exit_code": None,
            "reason": "declared by the worker",
        }
    ] == [{**one, "reason": "declared by the worker"} for one in command("wait", 1, "--json").json]


def test_tasks_that_did_not_succeed_are_named_with_the_reason_and_exit_1(
    command: Command, succeed: Callable[[int], None]
) -> None:
    for _ in range(4):
        command("submit", "--", "true")
    succeed(1)
    command("hold", 2, "--reason", "disk is full")
    command("cancel", 3)
    command.run_once(outcome=Outcome.FAILED, state=TaskState.FAILED)

    waited = command("wait", "1-4", exits=1)

    assert "1 succeeded\n2 held\n3 cancelled\n4 failed\n" == waited.stdout
    assert [
        "dispatcher: task 2 held: disk is full; dispatcher why 2",
        "dispatcher: task 3 cancelled: cancelled by an operator; dispatcher why 3",
        "dispatcher: task 4 failed: used up its attempts; dispatcher logs 4",
    ] == waited.stderr.splitlines()
    assert 3 == command("wait", 4, "--json", exits=1).json[0]["exit_code"]


def test_any_is_done_with_the_first(command: Command, succeed: Callable[[int], None]) -> None:
    for _ in range(3):
        command("submit", "--", "true")
    succeed(2)

    waited = command("wait", "--any", 1, 2, 3)

    assert "2 succeeded\n" == waited.stdout
    assert "no daemon runs here; it waits: dispatcher run --detach" in waited.stderr
    assert "2 succeeded\n" == command("wait", "--any", 1, 2, "--timeout", "1h").stdout
    command("cancel", 3)
    assert 1 == command("wait", "--any", 1, 3, exits=1).exit_code


def test_the_remaining_tasks_are_named_when_the_time_is_over_and_exit_75(
    command: Command, succeed: Callable[[int], None]
) -> None:
    for _ in range(3):
        command("submit", "--", "true")
    succeed(2)

    late = command("wait", 1, 2, 3, "--timeout", "0s", exits=75)

    assert "2 succeeded\n" == late.stdout
    assert late.stderr.endswith("dispatcher: 2 tasks are not done after 0s: 1 3\n")
    one = command("wait", 1, "--timeout", "0s", exits=75).stderr
    assert one.endswith("dispatcher: task 1 is not done after 0s\n")
    assert 75 == command("wait", "--any", 1, 3, "--timeout", "0s", exits=75).exit_code


def test_a_label_names_a_batch_whose_finished_tasks_count(
    command: Command, succeed: Callable[[int], None]
) -> None:
    for _ in range(2):
        command("submit", "-l", "batch=7", "--", "true")
    command("cancel", 1)
    succeed(2)

    assert "1 cancelled\n2 succeeded\n" == command("wait", "--label", "batch=7", exits=1).stdout


def test_a_queue_means_its_unfinished_tasks(
    command: Command, succeed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        command("submit", "-q", "ci", "--", "true")
    command("submit", "--", "true")
    command("cancel", 1)

    with command.client() as client:
        monkeypatch.setattr(waiting, "sleep", lambda _: client.hold(2))
        waited = command("wait", "--queue", "ci", exits=1)

    assert "2 held\n" == waited.stdout


def test_a_wait_for_a_finished_queue_succeeds_and_for_a_misspelt_one_fails(
    command: Command,
) -> None:
    command("submit", "-q", "nightly", "--", "true")
    command("cancel", 1)

    assert "nothing to wait for" in command("wait", "--queue", "nightly").stderr
    wrong = command("wait", "--queue", "nigthly", exits=1).stderr
    assert "no queue 'nigthly'; did you mean 'nightly'?" in wrong
    assert "nothing to wait for" in command("wait", "--label", "a=b", exits=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "Missing argument 'ID...'", 2),
        (["7"], "no task 7; `dispatcher list` shows those there are", 1),
        (["1", "7", "--timeout", "0s"], "no task 7", 1),
        (["1", "--timeout", "5"], '5 is a plain number; add its unit, e.g. "5s"', 2),
    ],
)
def test_a_wait_for_an_impossible_selection_is_refused(
    command: Command, arguments: list[str], message: str, code: int
) -> None:
    command("submit", "--", "true")

    assert message in command("wait", *arguments, exits=code).stderr


def test_an_interrupted_wait_names_what_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    command("submit", "--", "true")
    monkeypatch.setattr(waiting, "sleep", interrupt)

    message = command("wait", 1, exits=130).stderr

    assert "dispatcher: task 1 goes on; dispatcher cancel 1 ends it\n" in message


def test_a_terminal_shows_how_many_tasks_are_not_due_and_when_the_next_is(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_waiting, "is_watched", lambda: True)
    for delay in ("5h", "2h", "0s"):
        command("submit", "--delay", delay, "--", "true")

    shown = command("wait", "1-3", "--timeout", "0s", exits=75).stderr

    assert "dispatcher: 2 of 3 not due, the next in 2 h\n" in shown
