"""A daemon and commands behind a pooler in transaction mode."""

from collections.abc import Iterator

import pytest

from tests.e2e.world import World
from tests.pooler import Pooler
from tests.postgres import Postgres

SCHEMA = "behind"


@pytest.fixture
def pooled(postgres: Postgres, world: World) -> Iterator[World]:
    with Pooler(postgres).running() as pooler:
        world.configure(store={"url": pooler.url(), "schema": SCHEMA}, daemon={"poll": "50ms"})
        yield world
    postgres.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def test_a_daemon_behind_a_pooler_works_polls_and_says_so(pooled: World) -> None:
    with pooled.daemon() as daemon:
        assert "pooler" in daemon.expect("bell.silent")["reason"]
        long = pooled.submit("sleep", "1000")
        daemon.expect("run.started", task_id=long)
        tasks = [pooled.submit("sh", "-c", "echo hello") for _ in range(5)]
        failed = pooled.submit("false", max_attempts="1")

        assert 0 == pooled.cli("wait", *tasks).exit_code
        assert "hello\n" == pooled.cli("logs", tasks[0]).stdout
        pooled.cli("wait", failed, exits=1)
        pooled.cli("cancel", long)
        daemon.expect("run.settled", task_id=long, outcome="cancelled")
        pooled.cli("pause", "default")
        pooled.cli("resume", "default")
        assert "pooler" in pooled.cli("status").stdout

        assert [] == daemon.events("store.unavailable")
    assert [1] * 5 == [len(pooled.show(one)["runs"]) for one in tasks]


def test_a_daemon_behind_a_pooler_outlives_a_restart_of_the_server(
    pooled: World, postgres: Postgres
) -> None:
    with pooled.daemon() as daemon:
        running = pooled.submit("sh", "-c", "until test -e go; do sleep 0.05; done")
        daemon.expect("run.started", task_id=running)
        postgres.restart()
        (pooled.directory / "go").touch()

        assert 0 == pooled.cli("wait", running).exit_code
    assert 1 == len(pooled.show(running)["runs"])
