"""Daemons on a PostgreSQL server."""

import re
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.errors import AlreadyHeld
from dispatcher.store import migrations
from dispatcher.store.open import open_store
from tests.e2e.world import Daemon, World
from tests.eventually import eventually
from tests.postgres import Postgres

SCHEMA = "daemons"


@pytest.fixture
def store(postgres: Postgres) -> Iterator[dict[str, str]]:
    """The section of a configuration that names a store on the server."""
    yield {"url": postgres.url(), "schema": SCHEMA}
    postgres.sql(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


@pytest.fixture
def shared(store: dict[str, str], world: World) -> World:
    world.configure(store=store)
    return world


def test_a_task_runs_and_every_verb_finds_it(shared: World) -> None:
    with shared.daemon() as daemon:
        assert f"schema={SCHEMA})" in daemon.expect("store.created")["store"]
        task_id = shared.cli("submit", "--wait", "--", "sh", "-c", "echo hello").id

        assert "hello\n" == shared.cli("logs", task_id).stdout
        assert "succeeded" == shared.cli("show", task_id, "--json").json["state"]
        assert "connected" == shared.cli("status", "--json").json["executor"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_daemon_and_its_runs_outlive_a_restart_of_the_server(
    shared: World, postgres: Postgres, number: signal.Signals
) -> None:
    with shared.daemon():
        running = shared.submit("sh", "-c", "until test -e go; do sleep 0.05; done")
        waiting = shared.submit("true", delay="300ms")

        postgres.restart(number)
        (shared.directory / "go").touch()

        assert 0 == shared.cli("wait", running, waiting).exit_code
    assert [1, 1] == [len(shared.show(one)["runs"]) for one in (running, waiting)]


def test_a_daemon_waits_for_a_server_that_hangs(shared: World, postgres: Postgres) -> None:
    with shared.daemon() as daemon:
        shared.cli("submit", "--wait", "--", "true")
        with postgres.frozen():
            daemon.expect("store.unavailable")
        daemon.expect("store.recovered")

        shared.cli("submit", "--wait", "--", "true")


def refused(daemon: Daemon) -> None:
    errors = [line["error"] for line in daemon.events("store.unavailable")]
    assert errors
    assert "is not permitted to log in" in errors[-1]


@pytest.fixture
def role(postgres: Postgres) -> Iterator[str]:
    """A role that may log in and make a schema."""
    postgres.sql("CREATE ROLE host7 LOGIN; GRANT CREATE ON DATABASE postgres TO host7")
    yield "host7"
    postgres.sql("DROP OWNED BY host7 CASCADE; DROP ROLE host7")


def test_a_daemon_waits_for_a_right_that_is_taken_away_and_starts_without_none(
    world: World, postgres: Postgres, role: str
) -> None:
    world.configure(store={"url": postgres.url(user=role), "schema": SCHEMA})
    with world.daemon() as daemon:
        running = world.submit("sh", "-c", "until test -e go; do sleep 0.05; done")
        postgres.sql(f"ALTER ROLE {role} NOLOGIN")
        postgres.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
        )
        eventually(lambda: refused(daemon))
        (world.directory / "go").touch()
        postgres.sql(f"ALTER ROLE {role} LOGIN")
        daemon.expect("store.recovered")

        assert 0 == world.cli("wait", running).exit_code
    assert 1 == len(world.show(running)["runs"])
    postgres.sql(f"ALTER ROLE {role} NOLOGIN")
    assert "is not permitted to log in" in world.cli("run", exits=78).stderr


#: What is not there for a while, by what is renamed: itself, its new name, and where it is.
MISSING = {
    "schema": (f"SCHEMA {SCHEMA}", "SCHEMA away", "away", SCHEMA),
    "meta": (f"TABLE {SCHEMA}.meta", f"TABLE {SCHEMA}.away", "away", "meta"),
    "tasks": (f"TABLE {SCHEMA}.tasks", f"TABLE {SCHEMA}.away", "away", "tasks"),
}


@pytest.mark.parametrize("missing", MISSING)
def test_a_daemon_waits_for_a_store_that_is_missing_for_a_while(
    shared: World, postgres: Postgres, missing: str
) -> None:
    there, away, new, old = MISSING[missing]
    with shared.daemon() as daemon:
        running = shared.submit("sh", "-c", "until test -e go; do sleep 0.05; done")
        daemon.expect("run.started")
        postgres.sql(f"ALTER {there} RENAME TO {new}")
        try:
            text = r"holds no store any more|relation .* does not exist"
            eventually(lambda: _last_error(daemon, text))
            (shared.directory / "go").touch()
        finally:
            postgres.sql(f"ALTER {away} RENAME TO {old}")
        daemon.expect("store.recovered")

        assert 0 == shared.cli("wait", running).exit_code
    assert 1 == len(shared.show(running)["runs"])


def test_a_daemon_waits_for_a_database_that_is_missing_for_a_while(
    world: World, postgres: Postgres
) -> None:
    name = postgres.new_database()
    world.configure(store={"url": postgres.url(name)})
    with world.daemon() as daemon:
        world.cli("submit", "--wait", "--", "true")
        postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        eventually(lambda: _rename_unused(postgres, name, f"{name}_away"))
        try:
            eventually(lambda: _last_error(daemon, f'database "{name}" does not exist'))
        finally:
            postgres.sql(f"ALTER DATABASE {name}_away RENAME TO {name}")
            postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        daemon.expect("store.recovered")

        world.cli("submit", "--wait", "--", "true")
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


def _rename_unused(postgres: Postgres, database: str, name: str) -> None:
    postgres.sql(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    )
    assert [] == postgres.sql(f"SELECT 1 FROM pg_stat_activity WHERE datname = '{database}'")
    postgres.sql(f"ALTER DATABASE {database} RENAME TO {name}")


def _last_error(daemon: Daemon, text: str) -> None:
    errors = [line["error"] for line in daemon.events("store.unavailable")]
    assert errors
    assert re.search(text, errors[-1])


def test_r90_each_task_of_two_daemons_runs_once(
    shared: World, store: dict[str, str], tmp_path: Path, bytecode: Path
) -> None:
    (there := tmp_path / "other").mkdir()
    with closing(World(there, bytecode)) as other:
        other.configure(store=store)
        with shared.daemon(alone=False) as one, other.daemon(alone=False) as two:
            tasks = [world.submit("sleep", "0.05") for _ in range(20) for world in (shared, other)]
            shared.cli("wait", *tasks)
            nodes = {daemon.expect("daemon.started")["node"] for daemon in (one, two)}

    runs = [shared.show(task)["runs"] for task in tasks]
    assert [["succeeded"]] * 40 == [[run["outcome"] for run in of_task] for of_task in runs]
    assert 2 == len(nodes)


def test_a_daemon_works_on_through_an_upgrade_that_keeps_it(
    shared: World, store: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with shared.daemon() as daemon:
        running = shared.submit("sh", "-c", "until test -e go; do sleep 0.05; done")
        upgrade(store, tmp_path, monkeypatch, keeping=True)
        (shared.directory / "go").touch()

        assert 0 == shared.cli("wait", running, shared.submit("true")).exit_code
        assert [] == daemon.events("store.unavailable")


def test_an_upgrade_that_keeps_no_daemon_waits_for_it_and_then_refuses_it(
    shared: World, store: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with shared.daemon() as daemon:
        shared.cli("submit", "--wait", "--", "true")
        with pytest.raises(AlreadyHeld, match=f"dispatcher .* {daemon.pid} "):
            upgrade(store, tmp_path, monkeypatch)
    upgrade(store, tmp_path, monkeypatch)

    refused = shared.cli("run", exits=78)
    assert "newer dispatcher" in refused.stderr + refused.stdout


def upgrade(
    store: dict[str, str],
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    keeping: bool = False,
) -> None:
    """Upgrade the store as the next release does."""
    steps = migrations.MIGRATIONS
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*steps, "CREATE TABLE more (name TEXT)"))
        patch.setattr(migrations, "KEEPING", frozenset({len(steps) + 1} if keeping else ()))
        open_store(
            store["url"], schema=store["schema"], state_dir=state_dir, patience=5, upgrade=True
        ).close()
