"""Without a daemon a claim makes tasks of parts that a silent client had accepted."""

from typing import Any

import pytest

from dispatcher.client import Client
from dispatcher.errors import StoreUnavailable
from dispatcher.new_task import NewTask
from dispatcher.operations.local_claims import STEPS
from tests.command import Command
from tests.unit.test_bulk_submit import client, command, fail_at

__all__ = ["client", "command"]


def left_accepted(client: Client, *queues: str, silent_s: float = 11) -> None:
    """Leave a bulk submit with a part for each of these queues, accepted and then silent."""
    store: Any = client.store
    with store.transaction() as now:
        for part, queue in enumerate(queues):
            task = NewTask(command=("true",), max_attempts=1, lease_ttl_ms=60_000, queue=queue)
            store.stage("bulk", part, [task], now=now)
        store.accept("bulk", now=now)
        store.engine.change(f"UPDATE bulk_submits SET seen_at = seen_at - {silent_s * 1000}")


def test_a_claim_that_finds_nothing_continues_an_accepted_submit(client: Client) -> None:
    left_accepted(client, "a", "b", "c")

    claim = client.claim(queue="c")

    assert claim is not None
    assert {"a", "b", "c"} == set(client.counts())
    assert 0 == client.status().coming


def test_a_ready_task_is_claimed_before_a_bulk_submit_is_continued(client: Client) -> None:
    ready = client.submit(command=["true"], queue="a").task_id
    left_accepted(client, "a")

    claim = client.claim(queue="a")

    assert claim is not None
    assert ready == claim.task_id
    assert 1 == client.status().coming


def test_one_claim_brings_in_so_much_and_no_more(client: Client) -> None:
    left_accepted(client, *["a"] * (STEPS + 1))

    assert client.claim(queue="b") is None

    assert 1 == client.status().coming
    assert client.claim(queue="b") is None
    assert 0 == client.status().coming


def test_a_client_that_is_not_silent_is_left_alone(client: Client) -> None:
    left_accepted(client, "a", silent_s=9)

    assert client.claim(queue="a") is None
    assert 1 == client.status().coming


def test_a_claim_is_one_transaction_if_no_bulk_submit_is_coming(client: Client) -> None:
    fail_at(client, 1, StoreUnavailable("a second transaction"), committed=False)

    assert client.claim() is None


def test_the_command_line_claims_a_task_of_a_continued_submit(
    command: Command, client: Client
) -> None:
    left_accepted(client, "reviews")

    assert "DISPATCHER_TASK_ID=1" in command("claim", "--queue", "reviews", "--export").stdout


@pytest.mark.parametrize("text", ["x", "[5]"])
def test_status_and_metrics_report_what_is_coming_and_what_is_damaged(
    command: Command, client: Client, text: str
) -> None:
    left_accepted(client, "a")
    assert [] == command("status", "--json").json["damaged_parts"]
    store: Any = client.store
    with store.transaction():
        store.engine.change("UPDATE bulk_parts SET tasks = :text", {"text": text})

    assert client.claim(queue="a") is None
    assert "part 0 of bulk submit bulk is damaged by hand: " in command("status").stdout
    (damaged,) = command("status", "--json").json["damaged_parts"]
    assert damaged.startswith("part 0 of bulk submit bulk is damaged by hand: ")
    assert "dispatcher_coming_tasks 1.0" in command("metrics").stdout
