"""`Client.edit` refuses what a task could only fail with: its time, its variables."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.client import Client
from dispatcher.config.limits import LONGEST
from dispatcher.environment import Environment
from dispatcher.errors import InvalidTask
from dispatcher.model import TaskState
from dispatcher.operations.editing import TaskEdits, edited
from dispatcher.store.clock import STEP
from dispatcher.task_checks import MAX_ENVIRONMENT
from dispatcher.times import StoreTime, WallTime
from tests.unit.test_editing import submitted, task


@pytest.mark.parametrize(
    ("options", "edits", "message"),
    [
        (
            {"delay_ms": 600_000},
            {"total_timeout_ms": 300_000},
            "total_timeout: 5m from its submit are over before its delay; give more than 10m, or",
        ),
        (
            {"delay_ms": 3_602_026},
            {"total_timeout_ms": 300_000},
            "5m from its submit are over before its delay; give more than 61m, or",
        ),
        ({"total_timeout_ms": 5_000}, {"delay_ms": 5_000}, "5s from its submit are over before"),
        ({}, {"delay_ms": 5_000, "total_timeout_ms": 5_000}, "5s from its submit are over before"),
        ({}, {"delay_ms": LONGEST + 1}, "delay: must be from 0s to 3650d"),
    ],
)
def test_a_total_time_out_that_is_over_before_the_delay_is_refused(
    client: Client, options: Mapping[str, Any], edits: TaskEdits, message: str
) -> None:
    task_id = submitted(client, **options)
    before = task(client, task_id)

    with pytest.raises(InvalidTask, match=message):
        client.edit(task_id, **edits)

    assert before == task(client, task_id)


@pytest.mark.parametrize("options", [{}, {"delay_ms": 600_000}])
def test_a_total_time_out_that_is_over_already_is_refused(
    client: Client, options: Mapping[str, Any]
) -> None:
    before = replace(task(client, submitted(client, **options)), run_at=StoreTime(0))
    now = StoreTime(before.created_at + 2_000)

    message = "total_timeout: 2s from its submit are over already; give more than 2m, or remove"
    with pytest.raises(InvalidTask, match=message):
        edited(client.config, before, {"total_timeout_ms": 2_000}, now)
    retried = replace(before, retried_at=StoreTime(now - 1))
    with pytest.raises(InvalidTask, match="1ms from its retry are over already"):
        edited(client.config, retried, {"total_timeout_ms": 1}, now)
    assert 2_001 == (
        edited(client.config, before, {"total_timeout_ms": 2_001}, now).total_timeout_ms
    )
    assert 2 == edited(client.config, retried, {"total_timeout_ms": 2}, now).total_timeout_ms
    assert 1 == edited(client.config, before, {"priority": 1}, StoreTime(10**15)).priority


def test_a_finished_task_gets_any_total_time_out_as_it_counts_from_the_retry(
    client: Client,
) -> None:
    task_id = submitted(client, delay_ms=60_000)
    client.request(task_id, "cancel")

    client.edit(task_id, total_timeout_ms=1)

    assert 1 == task(client, task_id).total_timeout_ms


def test_variables_are_counted_together_with_those_of_the_submitter(client: Client) -> None:
    environment = Environment({"BIG": "x" * (MAX_ENVIRONMENT - 100)})
    task_id = submitted(client, environment=environment)

    client.edit(task_id, env={"A": "1"})
    with pytest.raises(InvalidTask, match="env: with its submitter's environment more than"):
        client.edit(task_id, env={"B": "1" * 100})

    assert {"A": "1"} == task(client, task_id).env


def test_an_edit_has_the_date_that_was_given_however_late_it_is_made(client: Client) -> None:
    task_id = submitted(client)
    calendar = client.calendar()
    start_at = WallTime(calendar.date(calendar.now) + 600_000)

    client.edit(task_id, start_at=start_at)
    found = task(client, task_id)
    client.edit(task_id, start_at=WallTime(1))

    assert abs(client.calendar().date(found.run_at) - start_at) <= STEP
    assert TaskState.READY is task(client, task_id).state
    with pytest.raises(InvalidTask, match="start_at: must be from 0 to 32503680000000, not -1"):
        client.edit(task_id, start_at=WallTime(-1))
