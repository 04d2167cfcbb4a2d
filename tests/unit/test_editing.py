"""`Client.edit`: what can be changed of a task that does not run, and what cannot."""

from collections.abc import Mapping
from typing import Any

import pytest

from dispatcher.client import Client
from dispatcher.errors import InvalidTask
from dispatcher.model import Task, TaskState
from dispatcher.new_task import NewTask
from dispatcher.operations.editing import TaskEdits, edit_each
from dispatcher.store.statements.operators import EDITABLE
from dispatcher.wire import KillMode
from tests.command import Command


def submitted(client: Client, **options: Any) -> int:
    return client.submit(command=["true"], **options).task_id


def task(client: Client, task_id: int) -> Task:
    found = client.task(task_id)
    assert found is not None
    return found


def test_each_edit_reaches_the_task(client: Client) -> None:
    task_id = submitted(client, env={"A": "1", "B": "2"}, labels={"x": "y", "z": ""})

    was = client.edit(
        task_id,
        command=["echo", "hi"],
        queue="q",
        priority=5,
        max_attempts=9,
        cwd="/elsewhere",
        env={"B": None, "C": "3"},
        labels={"x": None, "n": "m"},
        lease_ttl_ms=2_000,
        run_timeout_ms=1_000,
        stall_timeout_ms=500,
        queue_timeout_ms=3_000,
        total_timeout_ms=60_000,
        kill_grace_ms=0,
        kill_signal="INT",
        kill_mode=KillMode.LEADER,
        backoff_min_ms=1_000,
        backoff_max_ms=2_000,
        cooldown_ms=0,
        max_deferrals=1,
        max_orphans=0,
        delay_ms=0,
    )

    after = task(client, task_id)
    assert TaskState.READY is was
    assert (("echo", "hi"), "q", 5, 9) == (
        *(after.command, after.queue, after.priority, after.max_attempts),
    )
    assert ("/elsewhere", {"A": "1", "C": "3"}, {"z": "", "n": "m"}) == (
        *(after.cwd, after.env, after.labels),
    )
    assert (2_000, 1_000, 500, 3_000, 60_000, 0, 2, "leader") == (
        *(after.lease_ttl_ms, after.run_timeout_ms, after.stall_timeout_ms),
        *(after.queue_timeout_ms, after.total_timeout_ms, after.kill_grace_ms),
        *(after.kill_signal, after.kill_mode),
    )
    assert (1_000, 2_000, 0, 1, 0) == (
        *(after.backoff_min_ms, after.backoff_max_ms, after.cooldown_ms),
        *(after.max_deferrals, after.max_orphans),
    )


def test_the_edits_are_the_columns_that_the_store_changes() -> None:
    names = {name.removesuffix("_ms") for name in TaskEdits.__annotations__} - {"delay", "start_at"}

    assert {name.removesuffix("_ms") for name in EDITABLE} - {"state", "reason", "run_at"} == names


def test_an_unset_option_counts_as_never_given(client: Client) -> None:
    task_id = submitted(client, run_timeout_ms=1_000, total_timeout_ms=2_000, kill_signal=2)

    client.edit(task_id, run_timeout_ms=None, total_timeout_ms=None, kill_signal=None)

    after = task(client, task_id)
    assert (None, None, None, None) == (
        *(after.run_timeout_ms, after.total_timeout_ms, after.kill_signal, after.fails_at),
    )


def test_a_kill_grace_or_retry_policy_that_is_unset_is_the_one_configured_now(
    command: Command, client: Client
) -> None:
    task_id = submitted(client, kill_grace_ms=1, cooldown_ms=2, max_orphans=3, max_deferrals=4)
    command.configure('[leases]\nkill_grace = "7s"\n[retry]\nmax_orphans = 8')

    with command.client() as later:
        later.edit(task_id, kill_grace_ms=None, cooldown_ms=None, max_orphans=None)

    after = task(client, task_id)
    assert (7_000, None, 8, 4) == (  # None: the built-in default
        *(after.kill_grace_ms, after.cooldown_ms, after.max_orphans, after.max_deferrals),
    )


def test_an_edit_of_one_bound_of_the_back_off_fits_the_other(client: Client) -> None:
    task_id = submitted(client, backoff_min_ms=1_000, backoff_max_ms=3_600_000)

    client.edit(task_id, backoff_min_ms=1_800_000)
    with pytest.raises(InvalidTask, match=r"backoff_min: 30m is more than backoff_max \(1m\)"):
        client.edit(task_id, backoff_max_ms=60_000)

    after = task(client, task_id)
    assert (1_800_000, 3_600_000) == (after.backoff_min_ms, after.backoff_max_ms)


def test_a_delay_counts_from_now_and_its_end_makes_the_task_ready(client: Client) -> None:
    task_id = submitted(client)

    client.edit(task_id, delay_ms=60_000)
    delayed = task(client, task_id)
    client.edit(task_id, delay_ms=0)
    ready = task(client, task_id)

    assert (TaskState.SCHEDULED, "delayed by an operator") == (delayed.state, delayed.reason)
    assert delayed.created_at + 60_000 <= delayed.run_at
    assert (TaskState.READY, "its delay was ended by an operator") == (ready.state, ready.reason)
    claim = client.claim()
    assert claim is not None


def test_a_running_or_succeeded_task_stays_as_it_is(client: Client) -> None:
    task_id = submitted(client)
    client.claim()
    before = task(client, task_id)

    assert TaskState.RUNNING is client.edit(task_id, priority=5)
    assert before == task(client, task_id)
    client.complete(task_id)
    done = task(client, task_id)
    assert TaskState.SUCCEEDED is client.edit(task_id, priority=5)
    assert done == task(client, task_id)


def test_an_edit_of_an_unknown_task_returns_none(client: Client) -> None:
    assert None is client.edit(7, priority=5)


def test_a_failed_task_is_changed_before_its_retry(client: Client) -> None:
    task_id = submitted(client, max_attempts=1)
    client.claim()
    client.fail(task_id, "no such month")

    assert TaskState.FAILED is client.edit(task_id, command=["echo", "again"], max_attempts=2)
    client.retry(task_id)

    claim = client.claim()
    assert claim is not None
    assert ("echo", "again") == claim.command


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"queue": "a b"}, "queue: 'a b' is not a name"),
        ({"queue": None}, "queue: expected a text in quotes, got null"),
        ({"priority": "5"}, "priority: expected an integer, got a text in quotes"),
        ({"command": []}, "command: is empty"),
        ({"command": "make"}, "command: expected a list, got a text in quotes"),
        ({"cwd": "here"}, "cwd: 'here' is not absolute"),
        ({"env": {"A-B": "x"}}, "env: 'A-B' is not a name of a variable"),
        ({"env": {"X": "x" * 200_000}}, "env X: 200002 bytes with its name are more than 131071"),
        ({"labels": {"a b": "x"}}, "label: 'a b' is not a name"),
        ({"lease_ttl_ms": 1}, "lease_ttl: must be from 200ms"),
        ({"run_timeout_ms": 0}, "run_timeout: must be above 0"),
        ({"run_timeout_ms": 9, "total_timeout_ms": 5}, "run_timeout: 9ms is longer than total"),
        ({"kill_signal": "HUPP"}, "kill_signal: 'HUPP' is not a signal"),
        ({"kill_mode": "x"}, "kill_mode: 'x' is not tree or leader"),
        ({"start_timeout_ms": 5}, "start_timeout: waits for a first heartbeat"),
        (
            {"command": ["make && echo ok"]},
            "command: 'make && echo ok' is not a program; write: sh",
        ),
        ({"total_timeout_ms": 10}, "run_timeout: 5s is longer than total_timeout"),
    ],
)
def test_an_invalid_edit_is_refused_and_nothing_changes(
    client: Client, edits: Mapping[str, Any], message: str
) -> None:
    task_id = submitted(client, run_timeout_ms=5_000)
    before = task(client, task_id)

    with pytest.raises(InvalidTask, match=message):
        client.edit(task_id, **edits)

    assert before == task(client, task_id)


def test_a_keyword_that_edit_does_not_take_is_an_error_of_the_program(client: Client) -> None:
    with pytest.raises(TypeError, match="payload, priorty"):
        client.edit(submitted(client), priorty=5, payload="{}")


def test_a_task_keeps_an_attempt_if_it_starts_by_itself(command: Command, client: Client) -> None:
    task_id = submitted(client, max_attempts=3)
    command.run_once(state=TaskState.READY)  # one attempt is used

    with pytest.raises(InvalidTask, match="1 of them are used already; give 2 or more, or cancel"):
        client.edit(task_id, max_attempts=1)

    client.hold(task_id)
    assert TaskState.HELD is client.edit(task_id, max_attempts=1)


def test_the_command_of_a_profile_stays(command: Command) -> None:
    command.configure('[profiles.print]\ncommand = ["echo", "hello"]')
    with command.client() as client:
        task_id = client.submit(profile="print").task_id

        with pytest.raises(InvalidTask, match="command: profile 'print' brings its own"):
            client.edit(task_id, command=["rm"])
        assert TaskState.READY is client.edit(task_id, priority=5)


def test_no_command_is_given_where_only_profiles_may_run(command: Command, client: Client) -> None:
    task_id = submitted(client)
    command.configure("[defaults]\nallow_commands = false")

    with command.client() as strict, pytest.raises(InvalidTask, match="only profiles may be run"):
        strict.edit(task_id, command=["rm"])


def test_a_key_that_is_in_use_keeps_a_task_out_of_a_queue(client: Client) -> None:
    submitted(client, queue="ci", key="k")
    task_id = submitted(client, key="k")

    with pytest.raises(InvalidTask, match="queue: a task with the key 'k' is in 'ci' already"):
        client.edit(task_id, queue="ci")
    assert "default" == task(client, task_id).queue


@pytest.mark.parametrize(("state", "verb"), [("hold", "release"), ("cancel", "retry")])
def test_a_task_that_does_not_start_gets_no_delay(client: Client, state: str, verb: str) -> None:
    task_id = submitted(client)
    client.request(task_id, state)

    with pytest.raises(InvalidTask, match=f"`dispatcher {verb} {task_id}` makes it ready"):
        client.edit(task_id, delay_ms=5)


def test_each_of_many_tasks_is_changed_if_it_can_be(client: Client) -> None:
    ids = [submitted(client, run_timeout_ms=ms) for ms in (1_000, 9_000, 1_000)]
    client.claim(task_id=ids[2])

    (answers,) = edit_each(
        client.store, client.config, [*ids, 99], {"total_timeout_ms": 5_000, "priority": 1}
    )

    assert [True, False, False, False] == [one.done for one in answers]
    assert "run_timeout: 9s is longer" in str(answers[1].refused)
    assert [TaskState.READY, TaskState.READY, TaskState.RUNNING, None] == [
        one.was for one in answers
    ]
    assert [1, 0, 0] == [task(client, one).priority for one in ids]


def test_a_task_keeps_all_fields_of_its_submit_that_an_edit_checks() -> None:
    """An edited task is checked as a new one, from the fields that both have."""
    missing = {*NewTask.__struct_fields__} - {*Task.__struct_fields__}

    assert {"delay_ms", "start_at", "rules", "environment", "after", "after_any"} == missing
