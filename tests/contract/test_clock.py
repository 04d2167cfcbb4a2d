"""Store time follows the boot clock, whatever the host's clock is set to."""

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dispatcher.calendar import HOUR, Calendar
from dispatcher.errors import StoreUnavailable
from dispatcher.model import Node, Outcome, TaskState
from dispatcher.store import clock, migrate, migrations
from dispatcher.store.engine import transaction
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.times import HostClock, Instant, StoreTime, WallTime
from dispatcher.words import Beat, Renewed
from tests.contract.helpers import new_task, settlement

DAY = 24 * HOUR
NOW = 1_700_000_000_000


@dataclass
class Host:
    """A host whose clock anybody may set, and that may be booted."""

    directory: Path
    booted: str = "boot 1"
    up: float = 100.0
    """Seconds since it was booted."""
    shown: int = NOW
    """What its clock shows now."""
    behind: float = 0.0
    """Seconds for which each reading of the boot clock takes this process away."""

    def opened(self) -> SqlStore:
        """Return the host's store, as another process would open it."""
        host = HostClock(lambda: WallTime(self.shown), self._instant, lambda: self.booted)
        url = f"sqlite://{self.directory}/tasks.db"
        store = open_store(url, state_dir=self.directory, patience=10, clock=host)
        assert isinstance(store, SqlStore)
        return store

    def _instant(self) -> Instant:
        self.up += self.behind
        return Instant(self.up)

    def passes(self, milliseconds: int) -> None:
        """Let time pass, on both clocks."""
        self.up += milliseconds / 1000
        self.shown += milliseconds

    def boots(self, *, shows: int) -> None:
        """Start again, with some clock."""
        self.booted, self.up, self.shown = self.booted + "+", 0.0, shows


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def now(host: Host) -> int:
    """Return the store time that a new process reads."""
    with closing(host.opened()) as store, store.transaction() as now:
        return now


def watched(host: Host) -> int:
    """Return the last step that a new process knows of."""
    with closing(host.opened()) as store, store.transaction():
        return store.watch_clock().step_ms


def calendar(host: Host) -> Calendar:
    with closing(host.opened()) as store, store.snapshot():
        return store.calendar()


def seen(store: SqlStore, at: int) -> None:
    """Write a node's row, as a daemon does."""
    with store.transaction():
        store.record_node(
            Node(
                id="n",
                boot_id="boot",
                pid_namespace="pid:[1]",
                hostname="here",
                slots=1,
                seen_at=StoreTime(at),
                seen_interval_ms=5_000,
            )
        )


def failing(store: SqlStore, call: Callable[[], int]) -> int:
    """Return an answer of a transaction that fails then."""
    with suppress(StoreUnavailable), store.transaction():
        answer = call()
        raise StoreUnavailable
    return answer


def test_a_fresh_store_begins_with_the_hosts_clock(host: Host) -> None:
    assert NOW == now(host)
    assert 0 == calendar(host).ahead_ms


@pytest.mark.parametrize("step", [40 * DAY, -DAY, 3_000, -700])
def test_no_step_of_the_hosts_clock_moves_store_time(host: Host, step: int) -> None:
    with closing(host.opened()) as early:
        with early.transaction() as begun:
            pass
        host.shown += step
        host.passes(5_000)

        with early.transaction() as known:
            pass
        with early.snapshot() as read:
            pass
        assert [begun + 5_000] * 3 == [known, read, now(host)]


@pytest.mark.parametrize("step", [40 * DAY, -DAY])
def test_a_step_is_written_down_once_by_any_watcher(host: Host, step: int) -> None:
    now(host)
    assert 0 == watched(host)

    host.shown += step
    assert step == watched(host)
    host.passes(60_000)
    assert step == watched(host)
    host.shown -= step
    assert -step == watched(host)

    assert [0, step, -step] == [one.step_ms for one in calendar(host).settings]


@pytest.mark.parametrize("step", [40 * DAY, -DAY])
def test_a_transaction_that_finds_a_step_writes_the_date_that_is_shown(
    host: Host, step: int
) -> None:
    """Rows of the transaction carry the time of its beginning, which is before the look."""
    now(host)
    host.shown += step

    with closing(host.opened()) as store:
        with store.transaction() as begun:
            host.passes(7)
            store.watch_clock()
        with store.snapshot():
            assert NOW + step == store.calendar().date(begun)


def test_all_watchers_of_a_step_know_it_and_the_first_records_it(host: Host) -> None:
    with closing(host.opened()) as daemon, closing(host.opened()) as command:
        for shown in (0, DAY, DAY):
            host.shown = NOW + shown
            for store in (command, daemon):
                with store.transaction():
                    setting = store.watch_clock()
                assert (NOW, shown, shown) == (setting.since, setting.ahead_ms, setting.step_ms)

    assert [0, DAY] == [one.step_ms for one in calendar(host).settings]


def test_several_steps_in_a_row_are_all_remembered(host: Host) -> None:
    now(host)
    with closing(host.opened()) as store:
        for step in (HOUR, HOUR, -2 * HOUR, 0):
            host.shown += step
            for _ in range(2):
                with store.transaction():
                    store.watch_clock()

    assert [0, HOUR, HOUR, -2 * HOUR] == [one.step_ms for one in calendar(host).settings]


def test_small_corrections_are_a_step_when_they_have_become_a_second(host: Host) -> None:
    now(host)
    steps = []
    for _ in range(4):
        host.shown += 300
        steps.append(watched(host))

    assert [0, 0, 0, 1_200] == steps


def test_a_step_whose_commit_failed_is_written_down_the_next_time(host: Host) -> None:
    with closing(host.opened()) as store:
        with store.transaction():
            pass
        host.shown += DAY
        assert failing(store, lambda: store.watch_clock().step_ms) == DAY
        assert [0] == [one.step_ms for one in calendar(host).settings]

        for _ in range(2):
            with store.transaction():
                assert store.watch_clock().step_ms == DAY
    assert [0, DAY] == [one.step_ms for one in calendar(host).settings]


def test_a_boot_whose_first_commit_failed_is_begun_again(host: Host) -> None:
    with closing(host.opened()) as store:
        assert failing(store, lambda: store.calendar().now) == NOW
        host.shown += DAY

        with store.transaction() as begun:
            assert begun == NOW + DAY
    assert NOW + DAY == now(host)


def test_a_process_that_stands_still_between_two_readings_sees_no_step(host: Host) -> None:
    now(host)
    host.behind = 5.0

    assert 0 == watched(host)


def test_a_reader_records_no_boot(host: Host) -> None:
    with closing(host.opened()) as store, store.snapshot() as read:
        assert NOW == read
        assert () == store.calendar().settings


@pytest.mark.parametrize(
    ("shows", "begins"),
    [(NOW + 3 * DAY, NOW + 3 * DAY), (NOW - DAY, NOW + HOUR), (0, NOW + HOUR)],
    ids=["it was off for days", "its clock went back", "its clock forgot all"],
)
def test_over_a_boot_store_time_follows_the_hosts_clock_but_never_back(
    host: Host, shows: int, begins: int
) -> None:
    with closing(host.opened()) as store:
        with store.transaction():
            pass
        host.passes(HOUR)
        seen(store, NOW + HOUR)

    host.boots(shows=shows)

    assert begins == now(host)
    host.passes(1_000)
    assert begins + 1_000 == now(host)
    assert shows - begins == calendar(host).ahead_ms


def submits(store: SqlStore) -> None:
    with store.transaction() as now:
        store.submit([new_task(lease_ttl_ms=DAY)], now=now)


def claims(store: SqlStore) -> None:
    with store.transaction() as now:
        store.claim_local("default", owner="local:me", output_dir="/out", now=now)


def beats(store: SqlStore) -> None:
    with store.transaction() as now:
        (row,) = store.engine.rows("SELECT lock FROM runs WHERE outcome IS NULL")
        assert isinstance(store.heartbeat([Beat(task_id=1, lock=row[0])], now=now)[0], Renewed)


def cancels(store: SqlStore) -> None:
    with store.transaction() as now:
        assert store.cancel(1, "not needed", now=now) is TaskState.READY


def settles(store: SqlStore) -> None:
    """Settle a run after which the task runs again, so that only the run knows when."""
    with store.transaction() as now:
        (row,) = store.engine.rows("SELECT uid, task_id FROM runs WHERE outcome IS NULL")
        facts = {"outcome": Outcome.RELEASED, "state": TaskState.READY}
        claim: Any = SimpleNamespace(run_uid=row[0], task_id=row[1])
        assert store.settle([settlement(claim, ended_at=now, **facts)], now=now)


def stages(store: SqlStore) -> None:
    """Put a part of a bulk submit aside."""
    with store.transaction() as now:
        assert store.stage("bulk", 0, [new_task()], now=now)


@pytest.mark.parametrize(
    "done",
    [
        [submits],
        [submits, claims],
        [submits, claims, beats],
        [submits, submits, cancels],
        [submits, claims, settles],
        [submits, stages],
    ],
)
def test_it_never_goes_back_behind_what_was_written_last_though_no_daemon_ran(
    host: Host, done: list[Callable[[SqlStore], None]]
) -> None:
    now(host)
    with closing(host.opened()) as store:
        for do in done:
            host.passes(HOUR)
            do(store)
    known = NOW + len(done) * HOUR

    host.boots(shows=NOW - DAY)

    assert known == now(host)


def test_two_that_see_a_boot_first_agree(host: Host) -> None:
    now(host)
    host.boots(shows=NOW + DAY)
    with closing(host.opened()) as one, closing(host.opened()) as other:
        with one.snapshot():
            pass
        host.passes(10)
        with other.transaction() as first:
            pass
        host.shown += HOUR

        with one.transaction() as second:
            assert first == second


def test_a_row_of_before_an_upgrade_holds_no_time_back(host: Host) -> None:
    """It went by the host's clock, which may have been anything."""
    path = host.directory / "tasks.db"
    path.touch()
    with closing(SqliteEngine(path, patience=0)) as engine:
        migrate.create(engine, migrations.MIGRATIONS[:1])
        with transaction(engine, write=True):
            ahead = NOW + 40 * DAY
            engine.change(f"INSERT INTO nodes VALUES ('n', 'b', 'p', 'h', 1, {ahead}, 3)")
        migrate.adopt(engine)

    assert NOW == now(host)


def test_past_dates_stay_and_future_dates_follow_the_present_clock(host: Host) -> None:
    now(host)
    host.passes(HOUR)
    host.shown += DAY
    watched(host)
    host.passes(HOUR)
    known = calendar(host)

    moments = [NOW, NOW + HOUR - 1, NOW + HOUR, NOW + 2 * HOUR, NOW + 5 * HOUR]
    dates = [known.date(StoreTime(moment)) for moment in moments]

    assert [NOW, NOW + HOUR - 1, *(moment + DAY for moment in moments[2:])] == dates
    assert moments == [known.moment(date) for date in dates]
    assert "2023-11-14T22:13:20.000Z" == known.iso(StoreTime(NOW))


def test_a_date_that_a_step_ahead_skipped_is_the_steps(host: Host) -> None:
    now(host)
    host.passes(HOUR)
    host.shown += DAY
    watched(host)

    assert NOW + HOUR == calendar(host).moment(WallTime(NOW + DAY))


def test_a_date_that_was_shown_twice_means_the_later_time(host: Host) -> None:
    now(host)
    host.passes(3 * HOUR)
    host.shown -= 2 * HOUR
    watched(host)
    host.passes(HOUR)

    assert NOW + 4 * HOUR == calendar(host).moment(WallTime(NOW + 2 * HOUR))


def test_an_unrecorded_step_counts_for_future_dates(host: Host) -> None:
    now(host)
    host.shown += DAY

    known = calendar(host)

    assert NOW + HOUR + DAY == known.date(StoreTime(NOW + HOUR))
    assert NOW == known.date(StoreTime(NOW))


def test_a_clock_that_flaps_leaves_only_its_last_settings(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "KEPT", 3)
    now(host)
    for number in range(1, 9):
        host.shown += number * DAY
        watched(host)

    assert [6 * DAY, 7 * DAY, 8 * DAY] == [one.step_ms for one in calendar(host).settings]
    assert NOW == now(host)


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (lambda _: None, False),
        (lambda host: setattr(host, "shown", host.shown + 2 * HOUR), True),
        (lambda host: setattr(host, "shown", host.shown + HOUR // 2), False),
        (lambda host: host.boots(shows=host.shown), True),
    ],
    ids=["nothing", "a great step", "a small step", "a boot"],
)
def test_a_clock_is_fresh_for_an_hour_after_a_boot_or_a_great_step(
    host: Host, happens: Callable[[Host], None], *, expected: bool
) -> None:
    now(host)
    host.passes(HOUR)
    happens(host)
    watched(host)

    assert expected is calendar(host).is_fresh
    host.passes(HOUR)
    assert not calendar(host).is_fresh
