"""Operators' verbs on very many tasks: in steps, each whole, with room for others in between."""

from typing import Any

import pytest

from dispatcher.bulk import FIRST
from dispatcher.client import Client
from dispatcher.errors import CommitUnknown, StoreUnavailable
from dispatcher.model import Intent, TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.operations.batches import AT_ONCE
from dispatcher.operations.editing import edit_each
from dispatcher.operations.intents import request_each
from dispatcher.operations.tasks import prune_each
from tests.command import Command
from tests.unit.test_supervisor import Unwell

TASK = NewTask(command=("true",), max_attempts=1, lease_ttl_ms=60_000)

#: Tasks for more than one step.
TWO_STEPS = 2 * FIRST

READY = frozenset({TaskState.READY})


@pytest.fixture
def client(client: Client) -> Client:
    client.store = Unwell(client.store)  # type: ignore[assignment]
    return client


def submitted(client: Client, many: int) -> list[int]:
    return [one.task_id for one in client.submit_many([TASK] * many)]


def states(client: Client) -> dict[TaskState, int]:
    return dict(client.counts().get("default", {}))


def failing(client: Client, *failures: tuple[Exception, bool]) -> None:
    """Let the next transactions fail, committed or not."""
    store: Any = client.store
    store.failures = [*failures]


@pytest.mark.parametrize("verb", [*Intent, "edit"])
def test_no_verb_reads_a_payload_while_others_wait_to_write(command: Command, verb: str) -> None:
    read: set[str] = set()

    def allow(_: int, table: str | None, *others: object) -> int:
        read.add(table or "")
        return 0

    with command.client() as client:
        ids = [client.submit(command=["true"], payload='"long"').task_id for _ in range(2)]
        client.hold(ids[0])
        engine: Any = client.store.engine  # type: ignore[attr-defined]
        engine.connection.set_authorizer(allow)
        if verb == "edit":
            answers: list[Any] = [*edit_each(client.store, client.config, ids, {"priority": 5})]
        else:
            answers = [*request_each(client.store, client.config, ids, verb)]

    assert [2] == [*map(len, answers)]
    assert "tasks" in read
    assert "payloads" not in read


def test_r69_between_two_steps_of_a_cancel_others_write(command: Command, client: Client) -> None:
    ids = submitted(client, TWO_STEPS)
    wrote: list[int] = []
    with command.client() as other:
        for _ in request_each(client.store, client.config, ids, Intent.CANCEL):
            wrote.append(other.submit(command=["true"]).task_id)  # noqa: PERF401

    assert len(wrote) > 1
    assert {TaskState.CANCELLED: TWO_STEPS, TaskState.READY: len(wrote)} == states(client)


def test_a_few_tasks_are_changed_all_or_none(client: Client) -> None:
    ids = submitted(client, AT_ONCE)
    failing(client, (StoreUnavailable("busy"), False))

    with pytest.raises(StoreUnavailable):
        list(request_each(client.store, client.config, ids, Intent.CANCEL))
    kept = states(client)
    (answers,) = request_each(client.store, client.config, ids, Intent.CANCEL)

    assert {TaskState.READY: AT_ONCE} == kept
    assert AT_ONCE == len(answers)


def test_an_error_in_the_first_step_means_that_nothing_was_written(client: Client) -> None:
    ids = submitted(client, TWO_STEPS)
    failing(client, (StoreUnavailable("busy"), False))

    with pytest.raises(StoreUnavailable, match="busy"):
        list(request_each(client.store, client.config, ids, Intent.HOLD))

    assert {TaskState.READY: TWO_STEPS} == states(client)


@pytest.mark.parametrize("error", [StoreUnavailable("busy"), KeyboardInterrupt()])
def test_an_error_in_a_later_step_counts_what_is_done(client: Client, error: BaseException) -> None:
    ids = submitted(client, TWO_STEPS)
    steps = request_each(client.store, client.config, ids, Intent.HOLD)
    done = len(next(steps))
    failing(client, (error, False))  # type: ignore[arg-type]

    raised = f"{done} of {TWO_STEPS} tasks are done; do the same again for the rest"
    with pytest.raises(CommitUnknown, match=raised):
        next(steps)

    assert FIRST == done == states(client)[TaskState.HELD]


def test_a_step_of_unknown_result_is_done_again_and_reports_the_states_before(
    client: Client,
) -> None:
    ids = submitted(client, 3)
    failing(client, (CommitUnknown("unknown"), True))

    (answers,) = request_each(
        client.store, client.config, ids, Intent.HOLD, wanted=TaskFilter(states=READY)
    )

    assert [(task_id, TaskState.READY) for task_id in ids] == [
        (one.task_id, one.was) for one in answers
    ]
    assert {TaskState.HELD: 3} == states(client)


def test_a_task_that_matches_no_more_is_left_alone(client: Client) -> None:
    ids = submitted(client, 3)
    client.cancel(ids[1])

    (answers,) = request_each(
        client.store, client.config, ids, Intent.RETRY, wanted=TaskFilter(states=READY)
    )

    assert [ids[0], ids[2]] == [one.task_id for one in answers]
    assert {TaskState.READY: 2, TaskState.CANCELLED: 1} == states(client)


def test_r69_named_tasks_are_deleted_in_steps_between_which_others_write(
    command: Command, client: Client
) -> None:
    ids = submitted(client, TWO_STEPS)
    for _ in request_each(client.store, client.config, ids, Intent.CANCEL):
        pass
    wrote: list[int] = []
    with command.client() as other:

        def write(_: int) -> None:
            wrote.append(other.submit(command=["true"]).task_id)

        pruned = prune_each(client.store, client.config, ids, TaskFilter(), report=write)

    assert TWO_STEPS == pruned.tasks
    assert len(wrote) > 1
    assert {TaskState.READY: len(wrote)} == states(client)


def test_a_client_requests_the_same_of_many_tasks_once_each(client: Client) -> None:
    first, second, third = submitted(client, 3)
    client.cancel(second)
    wanted = TaskFilter(states=READY)

    results = client.request_each([first, second, third, first], "hold", "later", wanted=wanted)

    assert [(first, TaskState.READY), (third, TaskState.READY)] == [
        (one.task_id, one.was) for one in results
    ]
    assert {"later"} == {one.task.reason for one in results if one.task is not None}
    with pytest.raises(ValueError, match="must be one of cancel, hold, release, retry"):
        client.request_each([first], "kill")
