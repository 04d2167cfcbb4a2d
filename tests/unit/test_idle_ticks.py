"""A daemon without runs asks the store little, and misses nothing.

A tick opens no transaction when nothing has arrived, nothing is due and nothing was written. When
it is time to look, it asks one question; a whole tick follows if there is work.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.model import Liveness, TaskState
from dispatcher.store.api import Version
from dispatcher.store.engine import transaction
from dispatcher.store.sql import SqlStore
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.supervisor.session import NodeSession
from dispatcher.supervisor.stop import Stop
from dispatcher.times import StoreTime
from tests.fresh_stores import put_fresh_database
from tests.simulation import EXACT, SETTINGS, FakeBell, World

PONG = 0.1

#: Of a node on a shared store.
SHARED = replace(
    SETTINGS,
    session=NodeSession(uid="u", boot_id="boot", pid_namespace="pid:[1]", state_dir="/state"),
)


def ringing(heard: int | None = 0) -> FakeBell:
    """Return a bell that brings rings, or none."""
    bell = FakeBell()
    bell.heard = heard
    return bell


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

    @contextmanager
    def unannounced(self) -> Iterator[None]:
        """Change the store as another daemon whose ring is lost."""
        store = cast("SqlStore", self.store)
        news = store._news
        yield
        store._news = news

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


def test_after_a_poll_one_question_is_asked_and_from_then_on_each_interval_of_the_reaper(
    world: Counted,
) -> None:
    assert 1 <= world.transactions(of=SETTINGS.poll)
    world.run_for(SETTINGS.reap_interval)
    before = world.begun

    world.run_for(10 * SETTINGS.reap_interval)

    assert 10 == world.begun - before


def test_a_replaced_store_is_noticed_within_a_poll(tmp_path: Path) -> None:
    path = tmp_path / "store" / "tasks.db"
    put_fresh_database(path)
    engine = SqliteEngine(path, patience=0)
    with closing(engine):
        assert engine.version() is not None
        path.rename(path.with_name("moved"))

        assert engine.version() is None


def test_a_transaction_compares_the_files_of_its_store_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, looks, look = tmp_path / "store" / "tasks.db", list[str](), os.stat
    put_fresh_database(path)
    engine = SqliteEngine(path, patience=0)

    def counted(place: Path, **options: Any) -> os.stat_result:
        looks.append(str(place))
        return look(place, **options)

    with closing(engine), monkeypatch.context() as patch:
        patch.setattr(os, "stat", counted)
        with transaction(engine, write=True):
            assert None is not engine.version() == engine.version()

    assert [f"{path}{end}" for end in ("", "-wal", "-shm")] == looks


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


@pytest.mark.parametrize("what", ["ring", "reload", "stop", "executor"])
def test_what_arrives_apart_from_the_store_ends_the_rest(world: Counted, what: str) -> None:
    assert not world.transactions()
    match what:
        case "ring":
            world.bell.heard = 1
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


# The question --------------------------------------------------------------------------------


class Tally:
    """Counts the statements of an engine as a server does, which also reads its clock."""

    #: BEGIN, the clock, COMMIT.
    TRANSACTION = 3

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.statements = 0

    def __getattr__(self, name: str) -> Any:
        costs = {"begin": 2, "commit": 1, "rows": 1, "change": 1}.get(name, 0)
        self.statements += costs
        return getattr(self._engine, name)


def test_a_daemon_that_hears_rings_asks_less_than_one_statement_a_second() -> None:
    world = Counted(settings=SHARED, bell=ringing())
    world.start()
    world.run_for(10)
    store = cast("Any", world.store)
    store.engine = tally = Tally(store.engine)

    for _ in range(1_000):
        world.run_for(0.6)
        world.tick()

    assert 0 < tally.statements <= 600


@pytest.mark.parametrize("heard", [None, 0])
def test_work_that_nothing_announced_is_found_at_the_next_look(heard: int | None) -> None:
    world = Counted(settings=SHARED, bell=ringing(heard))
    world.start()
    world.run_for(20)
    longest = SETTINGS.poll if heard is None else SETTINGS.reap_interval

    with world.unannounced():
        task_id = world.submit()
    world.run_for(0.01)
    assert TaskState.READY is world.state(task_id)
    world.run_for(longest)

    assert TaskState.RUNNING is world.state(task_id)


def test_a_time_that_the_question_found_is_kept(world: Counted) -> None:
    world.bell.heard = 0
    world.run_for(20)
    with world.unannounced():
        task_id = world.submit(delay_ms=7_300)

    world.run_for(7.299)
    assert TaskState.SCHEDULED is world.state(task_id)
    world.run_for(0.001)
    assert TaskState.RUNNING is world.state(task_id)


def test_a_local_claim_never_rings_and_ends_within_the_interval_of_the_reaper() -> None:
    world = Counted(settings=SHARED, bell=ringing())
    world.start()
    world.run_for(20)
    task_id = world.submit(queue="own", lease_ttl_ms=1_000)
    with world.unannounced(), world.store.transaction() as now:
        world.store.claim_local(queue="own", owner="local:me", output_dir="/out", now=now)

    world.run_for(1 + SETTINGS.reap_interval)

    assert ["lost"] == [run.outcome for run in world.runs(task_id)]


@pytest.mark.parametrize("heard", [None, 1])
def test_a_bell_that_is_lost_or_new_ends_the_rest(world: Counted, heard: int | None) -> None:
    world.bell.heard = 0
    world.run_for(20)
    assert not world.transactions()

    world.bell.heard = heard

    assert 1 <= world.transactions()


def test_a_set_clock_is_noticed_within_a_poll_however_long_the_store_is_left_alone(
    world: Counted,
) -> None:
    world.bell.heard = 0
    world.run_for(20)
    world.step_clock(60)

    with capture_logs() as logs:
        world.run_for(SETTINGS.poll)

    assert ["clock.stepped"] == [line["event"] for line in logs]


def test_a_resting_daemon_reports_that_it_ticks(world: Counted) -> None:
    world.bell.heard = 0
    world.run_for(60)
    world.run_for(SETTINGS.reap_interval - PONG)

    report = world.supervisor.report(at=world.at())

    assert report.tick_age_s is not None
    assert report.tick_age_s <= SETTINGS.poll
    assert report.reap_age_s is not None
    assert report.reap_age_s <= SETTINGS.reap_interval


def test_no_sleep_counts_as_absence_of_the_daemon(world: Counted) -> None:
    """A worker that begins after a long rest gets its start time-out, and no more."""
    world.bell.heard = 0
    world.run_for(3_600)
    with capture_logs() as logs:
        task_id = world.submit(liveness=Liveness.WORKER, start_timeout_ms=5_000)
        world.tick()
        world.run_for(4.9)
        assert TaskState.RUNNING is world.state(task_id)
        world.run_for(0.2)
        world.gone(task_id, None, signal=15)

    assert ["lost"] == [run.outcome for run in world.runs(task_id)]
    assert "daemon.was_away" not in {line["event"] for line in logs}


# With runs -----------------------------------------------------------------------------------


def ends_sent(world: World) -> int:
    return sum(isinstance(message, wire.End) for message in world.executor.sent)


def running(world: World, **facts: Any) -> int:
    """Let a task run for more than a poll; return its id."""
    task_id = world.submit(**facts)
    world.settle_down()
    world.run_for(SETTINGS.poll + PONG)
    return task_id


def test_with_runs_a_tick_of_news_of_the_executor_alone_searches_for_nothing(
    world: Counted,
) -> None:
    running(world)
    store = cast("Any", world.store)
    store.engine = tally = Tally(store.engine)

    world.transactions()

    assert Tally.TRANSACTION == tally.statements


def test_an_ending_that_nothing_announced_is_found_within_a_poll(world: Counted) -> None:
    task_id = running(world)
    with world.unannounced():
        world.cancel(task_id)
    world.transactions()
    assert not ends_sent(world)

    world.run_for(SETTINGS.poll)

    assert 1 == ends_sent(world)


def test_an_ending_of_a_silent_executor_is_sent_once_it_answers(world: Counted) -> None:
    task_id = running(world)
    world.executor.answering = False
    world.cancel(task_id)
    world.transactions()
    assert not ends_sent(world)

    world.executor.answering = True
    world.transactions()

    assert 1 == ends_sent(world)


def test_an_ending_is_sent_again_to_an_executor_that_connects_again(world: Counted) -> None:
    task_id = running(world)
    world.cancel(task_id)
    world.settle_down()
    world.executor.reconnect()
    world.settle_down()

    assert 2 == ends_sent(world)


def test_a_task_that_came_while_all_slots_were_full_starts_in_the_first_that_is_free(
    world: Counted,
) -> None:
    first, _ = running(world), running(world)
    waiting = running(world)
    assert TaskState.READY is world.state(waiting)

    world.gone(first)

    assert TaskState.RUNNING is world.state(waiting)


def test_a_task_that_fails_is_due_again_at_its_time_beside_another_run(world: Counted) -> None:
    running(world)
    task_id = running(world, max_attempts=2, backoff_min_ms=300, backoff_max_ms=300)
    world.gone(task_id, 1)
    delay = (world.task(task_id).run_at - world.now()) / 1000

    assert world.deadline <= world.at() + delay + EXACT < world.at() + SETTINGS.poll


def test_an_ending_of_the_daemons_own_is_sent_in_the_tick_that_decides_it(world: Counted) -> None:
    running(world, run_timeout_ms=5_400)
    world.run_for(5.3 - SETTINGS.poll - PONG)
    assert not ends_sent(world)

    world.transactions()

    assert 1 == ends_sent(world)
