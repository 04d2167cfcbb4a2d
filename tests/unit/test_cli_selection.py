"""Operators' verbs on many tasks: ids, ranges, filters, the question before, and a dry run."""

import io
import sys
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from dispatcher.cli import intents
from dispatcher.cli.selection import FEW, Chosen, confirm
from dispatcher.cli.verbs import prune
from dispatcher.client import Client
from dispatcher.errors import DispatcherError
from dispatcher.model import Declared, Intent, Outcome, TaskFilter, TaskState
from dispatcher.selection import Selection, merged
from dispatcher.submission import new_task
from dispatcher.times import StoreTime
from dispatcher.words import Declaration
from tests.command import Command
from tests.eventually import PATIENCE

MANY = FEW + 5

READY, HELD = TaskState.READY, TaskState.HELD


def submit(command: Command, many: int, *options: object) -> None:
    for _ in range(many):
        command("submit", *options, "--", "true")


def ids_in(client: Client, state: TaskState) -> list[int]:
    """Return the ids of the tasks in a state, lowest first."""
    wanted = TaskFilter(states=frozenset({state}), oldest_first=True)
    return [task.id for task in client.tasks(wanted)]


def aged(client: Client, task_id: int, column: str, milliseconds: int) -> None:
    """Have something happen to a task so much earlier."""
    statement = f"UPDATE tasks SET {column} = {column} - :ms WHERE id = :id"
    with client.store.transaction():
        client.store.engine.change(  # type: ignore[attr-defined]
            statement, {"ms": milliseconds, "id": task_id}
        )


# Selections ----------------------------------------------------------------------------------


def test_ranges_and_ids_that_touch_become_one() -> None:
    spans = [range(8, 9), range(1, 3), range(3, 5), range(2, 4), range(6, 7)]

    assert [range(1, 5), range(6, 7), range(8, 9)] == merged(spans)
    assert [] == merged([])


def test_each_part_of_a_selection_has_bounds_of_its_own() -> None:
    selection = Selection(ids=(9, 3), ranges=(range(4, 7),))

    parts = selection.parts(TaskFilter(queue="q"))

    assert [(2, 7), (8, 10)] == [(one.after_id, one.before_id) for one in parts]
    assert {"q"} == {one.queue for one in parts}


def test_a_selection_without_ids_is_its_filter() -> None:
    selection = Selection(wanted=TaskFilter(queue="q"), older_than_ms=1_000)

    wanted = selection.filter({READY}, now=StoreTime(5_000))

    assert TaskFilter(queue="q", states=frozenset({READY}), until=StoreTime(4_000)) == wanted
    assert [wanted] == selection.parts(wanted)


def test_states_that_are_named_replace_the_usual_ones() -> None:
    selection = Selection(wanted=TaskFilter(states=frozenset({HELD})))

    assert frozenset({HELD}) == selection.filter({READY}, now=StoreTime(0)).states


# Ids, ranges, filters --------------------------------------------------------------------------


def test_ids_and_ranges_are_acted_on_together(command: Command, client: Client) -> None:
    submit(command, 6)

    result = command("cancel", 1, "3-4", 3)

    assert "1 cancelled\n3 cancelled\n4 cancelled\n" == result.stdout
    assert [2, 5, 6] == ids_in(client, READY)


def test_a_range_leaves_out_what_the_verb_cannot_change(command: Command) -> None:
    submit(command, 3)
    command.run_once()  # task 1

    result = command("cancel", "1-99")

    assert ("2 cancelled\n3 cancelled\n", "") == (result.stdout, result.stderr)


def test_ids_alone_are_each_reported_also_those_that_stay(command: Command) -> None:
    submit(command, 2)
    command.run_once()  # task 1

    result = command("cancel", 1, 2, 9, exits=1)

    assert "2 cancelled\n" == result.stdout
    assert "task 1 has failed already" in result.stderr
    assert "no task 9" in result.stderr


@pytest.mark.parametrize(
    ("filters", "held"),
    [
        (["--queue", "q"], [2, 3]),
        (["--label", "team=data"], [1, 3]),
        (["--text", "big.log"], [4]),
        (["--profile", "zip"], [5]),
        (["--state", "scheduled"], [6]),
        (["--older-than", "2h"], [1, 2]),
        (["--queue", "q", "--label", "team=data"], [3]),
        (["3-6", "--queue", "q"], [3]),
        ([2, 4, "--text", "true"], [2]),
    ],
    ids=str,
)
def test_filters_name_the_tasks_that_match_all_of_them(
    command: Command, client: Client, filters: list[object], held: list[int]
) -> None:
    command.configure('[profiles.zip]\ncommand = ["gzip"]')
    command("submit", "--label", "team=data", "--", "true")
    command("submit", "--queue", "q", "--", "true")
    command("submit", "--queue", "q", "--label", "team=data", "--", "true")
    command("submit", "--", "gzip", "big.log")
    command("submit", "--profile", "zip")
    command("submit", "--delay", "1h", "--", "true")
    for task_id in (1, 2):
        aged(client, task_id, "created_at", 3 * 3_600_000)

    shown = command("hold", *filters).stdout

    assert "".join(f"{task_id} held\n" for task_id in held) == shown
    assert held == ids_in(client, HELD)


def test_a_filter_of_retry_takes_failed_tasks_unless_a_state_is_named(
    command: Command, client: Client
) -> None:
    submit(command, 4)
    command.run_once()  # task 1
    command("cancel", 2)
    command("hold", 3)

    failed = command("retry", "1-4").stdout
    cancelled = command("retry", "--state", "cancelled").stdout

    assert ("1 ready\n", "2 ready\n") == (failed, cancelled)
    assert [3] == ids_in(client, HELD)


def test_a_filter_of_release_takes_what_is_held_or_being_held_and_nothing_that_runs(
    command: Command, client: Client
) -> None:
    submit(command, 4)
    with client.store.transaction() as now:
        client.store.claim("default", limit=2, node="n", output_dir="/o", now=now)
    command("hold", 2, 3)  # task 2 runs

    tried = command("release", "--queue", "default", "--dry-run").stdout
    shown = command("release", "--queue", "default").stdout

    assert tried.startswith("would release: 2 tasks (1 running, 1 held)\n")
    assert "2 is being ended as held; then it is ready\n3 ready\n" == shown
    assert Intent.RELEASE is client.task(2).intent  # type: ignore[union-attr]
    assert client.task(1).intent is None  # type: ignore[union-attr]


def test_a_filter_that_matches_nothing_is_reported_and_does_not_fail(command: Command) -> None:
    submit(command, 1, "--queue", "nightly")

    assert (
        "dispatcher: nothing to retry: no task that matches is failed; --state takes others: held,"
        " cancelled\n"
    ) == command("retry", "--queue", "nightly").stderr
    assert (
        "dispatcher: nothing to hold: no task that matches is running\n"
        == command("hold", "1-5", "--state", "running").stderr
    )
    assert "; no queue 'nightli'; did you mean 'nightly'?" in (
        command("cancel", "--queue", "nightli").stderr
    )
    assert [] == command("retry", "1-5", "--json").json


def test_many_tasks_that_a_filter_names_are_counted_and_those_named_by_id_are_listed(
    command: Command,
) -> None:
    with command.client() as client:
        client.submit_many(client_tasks(client, 2 * MANY))
        with client.store.transaction() as now:
            client.store.claim("default", limit=2, node="n", output_dir="/o", now=now)

    counted = command("cancel", f"1-{MANY}").stdout
    listed = command("cancel", *range(MANY + 1, 2 * MANY + 1)).stdout

    ending = "being ended, then cancelled: 2 tasks\n"
    assert f"{ending}cancelled: {MANY - 2} tasks\n" == counted
    assert MANY == len(listed.splitlines())


def client_tasks(client: Client, many: int) -> Iterator[Any]:
    return (new_task(client.config, ["true"], {}) for _ in range(many))


def test_the_json_of_many_names_each_of_them(command: Command) -> None:
    with command.client() as client:
        client.submit_many(client_tasks(client, MANY))

    found = command("hold", "--queue", "default", "--json").json

    assert [*range(1, MANY + 1)] == [one["id"] for one in found]
    assert {"id": 1, "was": "ready", "done": True, "ending": None, "then": None} == {
        key: found[0][key] for key in ("id", "was", "done", "ending", "then")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cancel", "1-x"], "'x' is not a valid task id"),
        (["cancel", "0-4"], "0 is not in the range"),
        (["hold", "first"], "'first' is not a valid task id"),
        (["cancel", "--label", "team"], "label: 'team' has no value; write team=VALUE"),
        (["retry", "--state", "running"], "'running' is not one of 'held', 'failed', 'cancelled'"),
        (["resume", "--all", "q"], "--all means every queue; name none"),
    ],
)
def test_a_mistaken_selection_is_one_line_and_nothing_is_done(
    command: Command, arguments: list[str], message: str
) -> None:
    submit(command, 1)

    stderr = command(*arguments, exits=2).stderr

    assert message in stderr
    assert 1 == len(stderr.splitlines())
    assert "ready" == command("show", 1, "--json").json["state"]


# A dry run, and the question -------------------------------------------------------------------


def test_a_dry_run_prints_which_tasks_it_would_be_and_changes_nothing(
    command: Command, client: Client
) -> None:
    submit(command, 3)
    command("hold", 2)

    shown = command("cancel", "--queue", "default", "--dry-run").stdout
    as_json = command("cancel", "--queue", "default", "--dry-run", "--json").json

    assert "would cancel: 3 tasks (2 ready, 1 held)\n" == shown.splitlines(keepends=True)[0]
    assert "1   ready  default  true" in shown
    assert {"dry_run": True, "tasks": 3, "states": {"ready": 2, "held": 1}} == as_json
    assert [1, 3] == ids_in(client, READY)


def test_a_dry_run_of_ids_names_those_that_would_stay(command: Command) -> None:
    submit(command, 2)
    command.run_once()  # task 1

    result = command("cancel", 1, 2, 9, "--dry-run")

    assert result.stdout.startswith("would cancel: 1 task (1 ready)\n")
    assert "dispatcher: tasks 1, 9 would stay as they are\n" == result.stderr


@pytest.mark.parametrize(
    ("verb", "would"),
    [
        ("cancel", "1 task (1 running), and end 1 run"),
        ("hold", "1 task (1 running), and end 1 run"),
        ("retry", "1 task (1 running)"),
        ("release", "0 tasks"),
    ],
)
def test_a_dry_run_knows_which_verbs_change_a_run_that_is_ending(
    command: Command, client: Client, verb: str, would: str
) -> None:
    submit(command, 2)
    with client.store.transaction() as now:
        ending, _ = client.store.claim("default", limit=2, node="n", output_dir="/o", now=now)
        client.store.begin_ending(ending.run_uid, Outcome.TIMED_OUT, "too long", now=now)

    shown = command(verb, 1, "--dry-run").stdout
    of_running = command(verb, 2, "--dry-run").stdout

    assert f"would {verb}: {would}\n" == shown.splitlines(keepends=True)[0]
    assert (verb in {"cancel", "hold"}) == ("(1 running)" in of_running)


def test_a_filter_leaves_a_run_alone_that_has_declared_its_success(
    command: Command, client: Client
) -> None:
    submit(command, 2)
    with client.store.transaction() as now:
        done, _ = client.store.claim("default", limit=2, node="n", output_dir="/o", now=now)
    words = Declaration(task_id=done.task_id, lock=done.lock, word=Declared.SUCCEED)
    with client.store.transaction() as now:
        client.store.declare(words, now=now)

    result = command("cancel", "1-2")

    assert "2 is being ended; then it is cancelled\n" == result.stdout
    assert "stay as they are" not in result.stderr


def test_a_dry_run_of_many_prints_the_first_and_counts_the_others(command: Command) -> None:
    with command.client() as client:
        client.submit_many(client_tasks(client, MANY))

    shown = command("hold", "--queue", "default", "--dry-run").stdout

    assert f"would hold: {MANY} tasks ({MANY} ready)\n" in shown
    assert f"… and {MANY - FEW} more\n" in shown
    assert FEW + 3 == len(shown.splitlines())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def confirmed(monkeypatch: pytest.MonkeyPatch, answer: str, chosen: Chosen, *, yes: bool) -> str:
    """Return what a terminal shows of the question; raise what the answer leads to."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", shown)
    confirm("cancel", chosen, yes=yes)
    return shown.getvalue()


def test_on_a_terminal_many_are_changed_for_their_count_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = Chosen(range(MANY), {READY: MANY - 1, HELD: 1})

    shown = confirmed(monkeypatch, f"{MANY}\n", many, yes=False)

    question = f"cancel {MANY} tasks ({MANY - 1} ready, 1 held)? Type {MANY} to go on: "
    assert question == shown
    for answer in ("y\n", "\n", "", f"{MANY - 1}\n"):
        with pytest.raises(DispatcherError, match="nothing was changed; --yes goes on"):
            confirmed(monkeypatch, answer, many, yes=False)


def test_after_the_question_a_run_that_was_not_counted_is_not_ended(
    command: Command, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.submit_many(client_tasks(client, MANY))

    def asked(does: str, chosen: Chosen, **_: object) -> TaskFilter:
        client.claim()
        with monkeypatch.context() as terminal:
            terminal.setattr(sys, "stdin", Terminal(f"{MANY}\n"))
            terminal.setattr(sys, "stderr", Terminal())
            return confirm(does, chosen, yes=False)

    monkeypatch.setattr(intents, "confirm", asked)

    shown = command("hold", "--queue", "default")

    assert [1] == ids_in(client, TaskState.RUNNING)
    assert f"held: {MANY - 1} tasks" in shown.stdout
    assert "left alone: 1 task, changed meanwhile" in shown.stderr
    assert client.outlook(1) is None


def test_the_question_before_many_ids_are_held_counts_the_runs_that_are_ended(
    command: Command, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.submit_many(client_tasks(client, MANY))
    client.claim()
    questions: list[str] = []
    monkeypatch.setattr(
        intents, "confirm", lambda does, chosen, **_: questions.append(chosen.text(does))
    )

    command("hold", *range(1, MANY + 1))

    assert [f"{MANY} tasks ({MANY - 1} ready, 1 running), and end 1 run"] == questions


def test_few_are_changed_without_a_question_and_so_are_many_with_yes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "" == confirmed(monkeypatch, "", Chosen(range(FEW)), yes=False)
    assert "" == confirmed(monkeypatch, "", Chosen(range(MANY)), yes=True)


def test_without_a_terminal_no_number_is_required(command: Command, client: Client) -> None:
    client.submit_many(client_tasks(client, MANY))

    command("cancel", "--queue", "default")

    assert [] == ids_in(client, READY)


# Prune ---------------------------------------------------------------------------------------


def test_a_range_of_prune_deletes_what_has_finished_in_it_at_any_time(command: Command) -> None:
    submit(command, 4)
    command("cancel", 2, 3)

    shown = command("prune", "1-2").stdout

    assert "deleted: 1 task, 0 output files\n" == shown
    assert [4, 3, 1] == [task["id"] for task in command("list", "--json").json]


def test_prune_of_ids_reports_those_that_stay(command: Command) -> None:
    submit(command, 2)
    _, file = command.run_once()

    result = command("prune", 1, 2, 9, exits=1)

    assert "deleted: 1 task, 1 output file\n" == result.stdout
    assert (
        "dispatcher: task 2 is ready; only finished tasks can be deleted\n"
        "dispatcher: no task 9; `dispatcher list` shows those there are\n"
    ) == result.stderr
    assert not file.exists()


def test_a_filter_of_prune_narrows_what_is_old_enough(command: Command, client: Client) -> None:
    for queue in ("a", "b", "a"):
        submit(command, 1, "--queue", queue)
    command("cancel", "1-3")
    for task_id in (1, 2):
        aged(client, task_id, "finished_at", 2 * 3_600_000)

    tried = command("prune", "--queue", "a", "--older-than", "1h", "--dry-run").stdout
    deleted = command("prune", "--queue", "a", "--older-than", "1h").stdout
    by_default = command("prune", "--queue", "a")
    by_state = command("prune", "--state", "cancelled", "--dry-run")

    assert tried.startswith("would delete: 1 task (1 cancelled)\n")
    assert "deleted: 1 task, 0 output files\n" == deleted
    assert "deleted: 0 tasks, 0 output files\n" == by_default.stdout
    none = "dispatcher: none finished more than 30d ago; --older-than takes younger ones\n"
    assert none == by_default.stderr == by_state.stderr
    assert [3, 2] == [task["id"] for task in command("list", "--json").json]


def test_prune_deletes_no_more_than_it_has_counted(
    command: Command, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(command, 6)
    command("cancel", "1-3")
    questions: list[str] = []

    def others_cancel(does: str, chosen: Chosen, **_: object) -> None:
        questions.append(f"{does} {chosen.text(does)}?")
        for task_id in (4, 5, 6):
            client.cancel(task_id)

    monkeypatch.setattr(prune, "confirm", others_cancel)
    shown = command("prune", "--older-than", "0s", "--state", "cancelled").stdout

    assert ["delete 3 tasks?"] == questions
    assert "deleted: 3 tasks, 0 output files\n" == shown
    assert [4, 5, 6] == ids_in(client, TaskState.CANCELLED)


def test_prune_counts_what_an_earlier_transaction_has_yet_to_finish(
    command: Command, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(command, 3)
    counting, sound = Event(), prune._moment

    def moment(store: Client) -> StoreTime:
        counting.set()
        return sound(store)

    def cancel_all(begun: Event) -> None:
        with command.client() as other, other.store.transaction() as now:
            for task_id in (1, 2, 3):
                other.store.cancel(task_id, "slowly", now=now)
            begun.set()
            counting.wait(PATIENCE)

    monkeypatch.setattr(prune, "_moment", moment)
    questions: list[int] = []
    monkeypatch.setattr(prune, "confirm", lambda _, chosen, **__: questions.append(len(chosen.ids)))
    begun = Event()
    canceller = Thread(target=cancel_all, args=(begun,))
    canceller.start()
    assert begun.wait(PATIENCE)

    shown = command("prune", "--older-than", "0s", "--state", "cancelled").stdout
    canceller.join()

    assert [3] == questions
    assert "deleted: 3 tasks, 0 output files\n" == shown


@pytest.mark.parametrize("named", [(1, 2, 3), ("1-3",)])
def test_prune_leaves_what_finishes_again_after_the_question(
    command: Command, client: Client, monkeypatch: pytest.MonkeyPatch, named: tuple[int | str, ...]
) -> None:
    submit(command, 3)
    command("cancel", "1-3")

    def others_run(*_: object, **__: object) -> None:
        client.retry(2)
        claim = client.claim(task_id=2)
        assert claim is not None
        client.complete(2, lock=claim.lock)

    monkeypatch.setattr(prune, "confirm", others_run)
    shown = command("prune", *named).stdout

    assert "deleted: 2 tasks, 0 output files\n" == shown
    assert [2] == ids_in(client, TaskState.SUCCEEDED)


@pytest.mark.parametrize("verb", ["cancel", "hold", "retry", "release", "prune"])
def test_an_age_of_everything_alone_is_refused(command: Command, verb: str) -> None:
    submit(command, 1)

    refused = command(verb, "--older-than", "0s", exits=2).stderr
    command(verb, "--older-than", "0s", "--dry-run")

    assert "--older-than 0s alone means everything; name a state or a queue too" in refused
    assert "ready" == command("show", 1, "--json").json["state"]


# Pause and resume ------------------------------------------------------------------------------


def test_all_queues_are_paused_and_resumed(command: Command) -> None:
    command.configure("[queues.gpu]\nconcurrency = 1")
    submit(command, 1, "--queue", "ci")

    paused = command("pause", "--all", "--reason", "maintenance").stdout
    status = command("status", "--json").json["paused_queues"]
    resumed = command("resume", "--all").stdout

    assert "ci paused\ndefault paused\ngpu paused\n" == paused
    assert dict.fromkeys(("ci", "default", "gpu"), "maintenance") == status
    assert "ci resumed\ndefault resumed\ngpu resumed\n" == resumed
    assert "dispatcher: no queue is paused\n" == command("resume", "--all").stderr


@pytest.mark.parametrize("verb", ["cancel", "hold", "release", "retry", "prune", "wait", "list"])
def test_filters_have_the_short_options_of_submit(command: Command, verb: str) -> None:
    for queue, label in (("nightly", "a=b"), ("nightly", "a=c"), ("daily", "a=b")):
        command("submit", "-q", queue, "-l", label, "--", "true")
    given = {"release": "hold", "retry": "cancel", "prune": "cancel", "wait": "cancel"}
    if verb in given:
        command(given[verb], "1-3")
    exits = 1 if verb == "wait" else 0
    also = {
        "list": ["--json-lines"],
        "prune": ["--older-than", "0s"],
        "retry": ["--state", "cancelled"],
    }.get(verb, [])

    done = command(verb, "-q", "nightly", "-l", "a=b", *also, exits=exits).stdout

    long = command("list", "--queue", "nightly", "--label", "a=b", "--json").json
    states = [task["state"] for task in command("list", "--json", "--oldest-first").json]
    match verb:
        case "prune":
            assert [] == long
            assert 2 == len(states)
        case "list":
            assert 1 == len(done.splitlines())
        case _:
            assert done.startswith("1 ")
            assert 1 == len(done.splitlines())
