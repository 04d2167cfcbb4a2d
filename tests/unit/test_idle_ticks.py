"""A tick opens no transaction when nothing has arrived, nothing is due and nothing was written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from dispatcher.model import TaskState
from dispatcher.store.api import Version
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.stop import Stop
from dispatcher.times import StoreTime
from tests.simulation import SETTINGS, World

PONG = 0.1


class Counted(World):
    """A world that counts the daemon's transactions."""

    begun = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        store = cast("SqlStore", self.store)
        plain = store.transaction

        @contextmanager
        def counted() -> Iterator[StoreTime]:
            self.begun += 1
            with plain() as now:
                yield now

        cast("Any", store).transaction = counted

    def transactions(self, *, of: float = PONG) -> int:
        """Return how many transactions a tick so many seconds later opens."""
        self.elapsed += of
        before = self.begun
        self.tick()
        return self.begun - before


@pytest.fixture
def world() -> Counted:
    world = Counted()
    world.start()
    return world


def test_a_tick_before_anything_is_due_opens_no_transaction(world: Counted) -> None:
    assert [0] * 9 == [world.transactions() for _ in range(9)]
    assert world.at() < world.deadline <= world.at() + SETTINGS.poll


def test_a_tick_at_the_poll_looks_at_the_store(world: Counted) -> None:
    assert 1 <= world.transactions(of=SETTINGS.poll)


def test_a_delay_that_is_over_is_found_at_its_time(world: Counted) -> None:
    task_id = world.submit(delay_ms=300)
    world.tick()

    world.run_for(0.299)
    assert TaskState.SCHEDULED is world.state(task_id)
    world.run_for(0.001)
    assert TaskState.RUNNING is world.state(task_id)


def test_what_others_wrote_to_an_embedded_store_is_found_without_a_ring(world: Counted) -> None:
    task_id = world.submit()
    assert 1 <= world.transactions()
    assert TaskState.RUNNING is world.state(task_id)


@pytest.mark.parametrize("what", ["wake", "reload", "stop", "executor"])
def test_what_arrives_apart_from_the_store_ends_the_rest(world: Counted, what: str) -> None:
    assert not world.transactions()
    match what:
        case "wake":
            world.supervisor.wake()
        case "reload":
            world.supervisor.reconfigure(replace(SETTINGS, slots=1))
        case "stop":
            world.supervisor.stop(Stop.DRAIN, at=world.at())
        case _:
            world.executor.reconnect()

    assert 1 <= world.transactions()


def test_each_message_may_decide_something_while_a_run_lives(world: Counted) -> None:
    world.submit()
    world.settle_down()

    assert [1] * 5 == [world.transactions() for _ in range(5)]


def test_a_silent_executor_that_answers_again_gets_the_waiting_tasks_at_once(
    world: Counted,
) -> None:
    world.executor.answering = False
    task_id = world.submit()
    world.tick()
    assert TaskState.READY is world.state(task_id)

    world.executor.answering = True
    assert 1 <= world.transactions()
    assert TaskState.RUNNING is world.state(task_id)


def test_a_store_of_which_nothing_is_known_is_looked_at(world: Counted) -> None:
    def unknown() -> Version | None:
        return None

    cast("Any", world.store).version = unknown
    assert 1 == world.transactions()
