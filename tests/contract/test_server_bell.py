"""The bell of a shared store, on a real server that restarts, hangs, or is behind a pooler."""

import random
import select
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dispatcher.daemon.duties import watch_bell
from dispatcher.store.bell import Bell
from dispatcher.store.open import open_store
from dispatcher.store.server import DatabaseServer
from dispatcher.store.server_bell import CHECK_EVERY, RETRY, ServerBell
from dispatcher.times import Instant
from tests.contract.helpers import NOW, new_task
from tests.contract.proxy import Proxy
from tests.eventually import eventually
from tests.pooler import Pooler
from tests.postgres import Postgres, running
from tests.recorded_logs import expect_catalogued

fits: type[Bell] = ServerBell


class Time:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.at = Instant(1_000.0)

    def __call__(self) -> Instant:
        return self.at

    def pass_by(self, seconds: float) -> None:
        self.at = Instant(self.at + seconds)


@pytest.fixture(scope="module")
def server(server_files: Path) -> Iterator[Postgres]:
    """A server for these tests alone, which hurt it."""
    with running(server_files) as server:
        yield server


@pytest.fixture
def time() -> Time:
    return Time()


def bell_at(url: str, time: Time, schema: str = "dispatcher") -> ServerBell:
    server = DatabaseServer.of(url, schema=schema, patience=0.02)
    return ServerBell(server, clock=time, rng=random.Random(1))


def is_readable(bell: ServerBell) -> bool:
    descriptor = bell.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def settle(bell: ServerBell) -> None:
    """Read until the bell receives rings, or knows why not."""

    def known() -> None:
        bell.fileno()
        bell.read()
        assert bell._steps is None

    eventually(known)
    assert not is_readable(bell)


def rings_of(bell: ServerBell) -> bool:
    """Wait until the bell wakes its daemon, and let it be read."""
    eventually(lambda: _assert_readable(bell))
    bell.read()
    return True


def _assert_readable(bell: ServerBell) -> None:
    assert is_readable(bell)


def test_a_commit_that_gives_work_wakes_the_daemons_of_this_store_and_a_rollback_does_not(
    server: Postgres, time: Time, tmp_path: Path
) -> None:
    store = open_store(server.url(), state_dir=tmp_path, patience=5, schema="one")
    with (
        closing(store),
        closing(bell_at(server.url(), time, "one")) as bell,
        closing(bell_at(server.url(), time, "two")) as other,
    ):
        settle(bell)
        settle(other)
        with store.transaction():
            store.submit([new_task()], now=NOW)
            assert not is_readable(bell), "not before the commit"
        assert rings_of(bell)
        assert not is_readable(bell), "read once"

        with suppress(KeyboardInterrupt), store.transaction():
            store.submit([new_task()], now=NOW)
            raise KeyboardInterrupt
        with store.transaction():
            store.pause("q", "why", now=NOW)
        server.sql('NOTIFY "one"')
        assert rings_of(bell), "the sign that all before it has arrived"
        assert not is_readable(bell)
        assert not is_readable(other)


def test_each_ring_and_each_new_connection_is_another_number_and_none_without_a_connection(
    server: Postgres, time: Time
) -> None:
    with closing(bell_at(server.url(), time)) as bell:
        assert bell.heard is None
        bell.fileno()
        assert bell.heard is None, "not before it listens"
        settle(bell)
        known = [bell.heard]
        server.sql('NOTIFY "dispatcher"')
        assert rings_of(bell)
        known.append(bell.heard)
        time.pass_by(CHECK_EVERY)
        settle(bell)
        assert known[-1] == bell.heard, "a check is no news"

        server.sql(f"SELECT pg_terminate_backend({bell._pid})")
        eventually(lambda: _failed(bell))
        assert bell.heard is None
        time.pass_by(RETRY[1])
        settle(bell)
        known.append(bell.heard)

    assert None not in known
    assert 3 == len(set(known))


def test_only_who_asks_for_the_descriptor_listens(server: Postgres, time: Time) -> None:
    with closing(bell_at(server.url(), time)) as bell:
        bell.read()
        assert bell._connection is None


def test_a_bell_whose_session_the_server_ends_reports_it(server: Postgres, time: Time) -> None:
    with closing(bell_at(server.url(), time)) as bell:
        settle(bell)
        assert bell.failure is None
        server.sql(f"SELECT pg_terminate_backend({bell._pid})")

        eventually(lambda: _failed(bell))


def test_a_bell_listens_again_at_the_same_descriptor_after_a_restart_of_the_server(
    server: Postgres, time: Time
) -> None:
    with capture_logs() as logs, closing(bell_at(server.url(), time)) as bell:
        duty = watch_bell(bell)
        descriptor = bell.fileno()
        settle(bell)
        duty(time.at)
        server.stop()
        assert rings_of(bell)
        eventually(lambda: _failed(bell))
        duty(time.at)
        for _ in range(3):
            time.pass_by(RETRY[1])
            bell.read()
            settle(bell)
            assert bell.failure is not None
            duty(time.at)
        server.start()
        bell.read()
        assert bell.failure is not None, "not before its time"

        time.pass_by(RETRY[1])

        def again() -> None:
            bell.read()
            duty(time.at)
            assert bell.failure is None

        eventually(again)
        server.sql('NOTIFY "dispatcher"')
        assert rings_of(bell)
        assert descriptor == bell.fileno()
    assert ["bell.silent", "bell.restored"] == [line["event"] for line in logs]
    expect_catalogued(logs)


def test_the_bells_of_a_lost_server_do_not_return_together(server: Postgres) -> None:
    dues = set()
    for seed in range(20):
        time = Time()
        gone = DatabaseServer.of("postgresql://@/x?host=/nowhere", schema="s", patience=0.02)
        with closing(ServerBell(gone, clock=time, rng=random.Random(seed))) as bell:
            bell.fileno()
            eventually(lambda bell=bell: _failed(bell))
            dues.add(bell._due)

    assert 20 == len(dues)
    assert all(1_000 + RETRY[0] / 2 <= due <= 1_000 + RETRY[0] for due in dues)


def _failed(bell: ServerBell) -> None:
    bell.read()
    assert bell.failure is not None


def test_a_server_that_hangs_is_given_up_at_the_check_without_a_wait(
    server: Postgres, time: Time
) -> None:
    with closing(bell_at(server.url(), time)) as bell:
        settle(bell)
        with server.frozen():
            time.pass_by(CHECK_EVERY)
            bell.read()
            assert bell.failure is None
            time.pass_by(5)
            bell.read()
            assert "did not answer in time" in (bell.failure or "")


# A pooler in transaction mode -------------------------------------------------------------------


def test_a_silent_host_of_several_keeps_no_bell_from_the_server(
    server: Postgres, time: Time
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Proxy(f"{server.directory}/.s.PGSQL.5432").running() as proxy,
    ):
        hosts = ",".join(f"127.0.0.1:{port}" for port in (silent.getsockname()[1], proxy.port))
        bell = bell_at(f"postgresql://postgres@{hosts}/postgres", time)
        with closing(bell):
            bell.fileno()
            time.pass_by(2.1)
            bell.read()
            assert "did not answer in time" in str(bell.failure)
            time.pass_by(RETRY[1])
            settle(bell)

            assert bell.failure is None
            assert bell.heard is not None


@pytest.mark.parametrize("newest", [False, True])
def test_a_pooler_in_transaction_mode_is_found_and_polled(
    server: Postgres, time: Time, newest: bool
) -> None:
    """Also one that happens to give the session that listens to each question."""
    with (
        Pooler(server, newest=newest).running() as pooler,
        closing(bell_at(pooler.url(), time)) as bell,
    ):
        settle(bell)
        server.sql('NOTIFY "dispatcher"')
        time.pass_by(CHECK_EVERY)
        settle(bell)

        assert "pooler" in (bell.failure or "")
        assert bell.heard is None
    assert [] == server.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'pooler'")


def test_a_pooler_in_session_mode_is_known_by_the_first_ring(server: Postgres, time: Time) -> None:
    with (
        Pooler(server, keeps=True).running() as pooler,
        closing(bell_at(pooler.url(), time)) as bell,
    ):
        settle(bell)
        assert "pooler" in (bell.failure or "")
        server.sql('NOTIFY "dispatcher"')
        assert rings_of(bell)
        known = bell.heard

        assert bell.failure is None
        assert known is not None
        time.pass_by(CHECK_EVERY)
        settle(bell)
        assert (None, known) == (bell.failure, bell.heard)


def test_a_session_that_no_longer_listens_is_found_at_the_next_check(
    server: Postgres, time: Time
) -> None:
    with closing(bell_at(server.url(), time)) as bell:
        settle(bell)
        assert bell._connection is not None
        bell._connection.nonblocking = 0
        bell._connection.exec_(b"UNLISTEN *")
        bell._connection.nonblocking = 1
        time.pass_by(CHECK_EVERY)
        bell.read()
        eventually(lambda: _failed(bell))

        assert "pooler" in (bell.failure or "")
