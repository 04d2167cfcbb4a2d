"""A person leaves a transaction open on the server, with locks on rows of one task."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import psycopg
import pytest

from tests.e2e.helpers import expect_dead, shell
from tests.e2e.world import World
from tests.eventually import eventually
from tests.postgres import Postgres

SCHEMA = "locked_rows"


@pytest.fixture
def shared(postgres: Postgres, world: World) -> Iterator[World]:
    world.configure(
        store={"url": postgres.url(), "schema": SCHEMA},
        executor={"absence_limit": "2s"},
        leases={"takeover_margin": "4s"},
    )
    yield world
    postgres.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@contextmanager
def left_open(postgres: Postgres, statement: str) -> Iterator[str]:
    """Hold what a statement locks, as psql does until its COMMIT; give the session's name."""
    options = f"-c search_path={SCHEMA}"
    with psycopg.connect(postgres.url(), options=options, application_name="psql") as session:
        session.execute(statement.encode())
        yield f"pid {session.info.backend_pid}, user postgres, application psql"
        session.rollback()


def test_a_run_whose_row_is_locked_for_longer_than_the_limit_ends_alone(
    shared: World, postgres: Postgres
) -> None:
    with shared.daemon() as daemon:
        locked = shared.submit(*shell('[ "$DISPATCHER_FENCE" = 2 ] || exec sleep 60'))
        worker = psutil.Process(daemon.expect("run.started", task_id=locked)["pid"])
        other = shared.submit("sh", "-c", "until test -e go; do sleep 0.05; done")
        neighbour = psutil.Process(daemon.expect("run.started", task_id=other)["pid"])

        row = f"SELECT 1 FROM runs WHERE task_id = {locked} FOR UPDATE"
        with left_open(postgres, row) as holder:
            text = (
                f"another session ({holder}) holds a lock on the rows of task {locked};"
                " nothing of it is recorded until it ends"
            )
            assert text == daemon.expect("rows.locked")["reason"]
            assert text in shared.cli("status", "--json").json["degraded"]
            assert text in shared.cli("why", locked).stdout
            assert text in shared.cli("doctor", exits=1).stdout
            expect_dead(worker)
            shared.cli("submit", "--wait", "--", "true")
            assert "running" == shared.show(locked)["state"]

        shared.cli("wait", locked)
        runs = shared.show(locked)["runs"]
        assert ["orphaned", "succeeded"] == [run["outcome"] for run in runs]
        assert "absence" in runs[0]["error"]
        assert neighbour.is_running()
        (shared.directory / "go").touch()
        shared.cli("wait", other)
        assert ["succeeded"] == [run["outcome"] for run in shared.show(other)["runs"]]
        daemon.expect("rows.unlocked")
        assert [] == daemon.events("store.unavailable")


def expect_confirmed_for_longer_than_the_limit(postgres: Postgres, task: int) -> None:
    """Wait until a run was confirmed again after its limit, from now on, was over."""
    query = f"SELECT takeover_at FROM {SCHEMA}.runs WHERE task_id = {task}"
    ((before,),) = postgres.sql(query)

    def probe() -> None:
        ((takeover_at,),) = postgres.sql(query)
        assert takeover_at > before + 5_000

    eventually(probe)


@pytest.mark.parametrize("statement", ["UPDATE tasks SET priority = 5", "SELECT 1 FROM nodes"])
def test_all_runs_outlive_a_lock_of_their_tasks_or_of_their_node(
    shared: World, postgres: Postgres, statement: str
) -> None:
    by_node = "nodes" in statement
    with shared.daemon() as daemon:
        going_on = shared.submit("sh", "-c", "until test -e go; do sleep 0.05; done")
        ending = shared.submit("sh", "-c", "until test -e end; do sleep 0.05; done")
        for task in (going_on, ending):
            daemon.expect("run.started", task_id=task)

        with left_open(postgres, statement + (" FOR UPDATE" if by_node else "")):
            (shared.directory / "end").touch()
            daemon.expect("rows.locked")
            waiting = [shared.submit("true")] if by_node else []
            if by_node:
                shared.cli("wait", ending)
                assert "holds a lock on this node's row" in shared.cli("why", *waiting).stdout
            expect_confirmed_for_longer_than_the_limit(postgres, going_on)

        (shared.directory / "go").touch()
        shared.cli("wait", ending, going_on, *waiting)
        assert ["succeeded"] == [run["outcome"] for run in shared.show(going_on)["runs"]]
        assert [] == daemon.events("store.unavailable")
