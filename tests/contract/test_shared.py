"""A shared store is made once in its schema, remembered, and never made over what existed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.errors import ConfigError, StoreUnavailable, StoreUnusable, StoreWithheld
from dispatcher.store.open import open_store, remembered_identity
from tests.contract.helpers import NOW, SHARED, new_task
from tests.postgres import Postgres

pytestmark = [SHARED, pytest.mark.usefixtures("unmade")]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def stranger(postgres: Postgres) -> Iterator[str]:
    """The URL of a role that may do nothing."""
    postgres.sql("CREATE ROLE stranger LOGIN")
    yield postgres.url(user="stranger")
    postgres.sql("DROP OWNED BY stranger; DROP ROLE stranger")


def identity(url: str, state_dir: Path, **options: object) -> str:
    with closing(open_store(url, state_dir=state_dir, patience=5, **options)) as store:
        return store.identity


def test_a_store_is_made_by_its_first_use_and_remembered(url: str, state_dir: Path) -> None:
    first = identity(url, state_dir)

    assert first == identity(url, state_dir, create=False) == remembered_identity(state_dir)


def test_a_store_that_was_lost_is_not_made_anew(
    url: str, state_dir: Path, postgres: Postgres
) -> None:
    first = identity(url, state_dir)
    postgres.sql("DROP SCHEMA dispatcher CASCADE")

    with pytest.raises(StoreUnusable, match=f"and .*/store-id remembers .*{first}; let store"):
        identity(url, state_dir)
    (state_dir / "store-id").unlink()
    assert first != identity(url, state_dir)


def test_a_wrong_schema_is_refused_with_those_that_hold_stores(
    postgres: Postgres, state_dir: Path, tmp_path: Path
) -> None:
    url = postgres.url(postgres.new_database())
    with pytest.raises(StoreUnusable, match=r"=dispatcher\) holds no store \(nor does another"):
        identity(url, state_dir, create=False)
    identity(url, state_dir)
    with pytest.raises(
        StoreUnusable,
        match=r"schema=dispacher\) holds no store \(this database has stores in: dispatcher\);"
        r" correct store\.url or store\.schema, or make a store here: `dispatcher run` or `disp",
    ):
        identity(url, tmp_path / "new", create=False, schema="dispacher")
    with pytest.raises(StoreUnusable, match=r"=dispacher.* in: dispatcher\), and .*/store-id rem"):
        identity(url, state_dir, schema="dispacher")


def test_who_makes_a_store_is_given_the_schemas_with_others(
    postgres: Postgres, state_dir: Path, tmp_path: Path
) -> None:
    url = postgres.url(postgres.new_database())
    made: list[tuple[str, ...]] = []
    for _ in range(2):
        identity(url, state_dir, made=lambda _, others: made.append(others))
    identity(url, tmp_path, schema="night", made=lambda _, others: made.append(others))

    assert [(), ("dispatcher",)] == made


def test_two_schemas_of_one_database_are_two_stores(
    url: str, state_dir: Path, tmp_path: Path, postgres: Postgres
) -> None:
    postgres.sql("DROP SCHEMA IF EXISTS night CASCADE")
    with (
        closing(open_store(url, state_dir=state_dir, patience=5)) as day,
        closing(open_store(url, state_dir=tmp_path, patience=5, schema="night")) as night,
    ):
        with day.transaction():
            day.submit([new_task()], now=NOW)
        with night.snapshot():
            assert range(0) == night.ids()

    assert day.identity != night.identity


@pytest.mark.parametrize("name", ["", "Night", "a-b", 'a"b', "pg_night", "1st", "n" * 64])
def test_a_name_that_no_schema_should_have_is_refused(url: str, state_dir: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^store\.schema: "):
        identity(url, state_dir, schema=name)


def test_a_schema_with_other_tables_is_left_alone(
    url: str, state_dir: Path, postgres: Postgres
) -> None:
    postgres.sql("CREATE SCHEMA dispatcher; CREATE TABLE dispatcher.tasks (mine TEXT)")

    with pytest.raises(StoreUnusable, match=r'"tasks" already exists; .*store\.schema'):
        identity(url, state_dir)
    assert [] == postgres.sql("SELECT mine FROM dispatcher.tasks")
    assert [(1,)] == postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'dispatcher'")


def test_a_role_without_rights_is_told_what_it_lacks(
    url: str, state_dir: Path, stranger: str
) -> None:
    with pytest.raises(StoreUnusable, match="permission denied for database postgres; grant"):
        identity(stranger, state_dir)
    identity(url, state_dir)
    with pytest.raises(
        StoreUnusable, match=r"may not use the schema.*GRANT dispatcher_submit, .* TO stranger "
    ):
        identity(stranger, state_dir)


def test_a_role_that_may_use_an_empty_schema_is_told_that_it_may_not_create(
    state_dir: Path, stranger: str, postgres: Postgres
) -> None:
    postgres.sql("CREATE SCHEMA dispatcher; GRANT USAGE ON SCHEMA dispatcher TO stranger")

    with pytest.raises(StoreWithheld, match=r"may not make one in it.*grant this role CREATE"):
        identity(stranger, state_dir)


def test_a_role_that_may_create_makes_a_store_of_its_own(
    url: str, state_dir: Path, stranger: str, postgres: Postgres
) -> None:
    postgres.sql("GRANT CREATE ON DATABASE postgres TO stranger")

    assert identity(stranger, state_dir) == identity(stranger, state_dir)


def test_a_newer_schema_is_refused(url: str, state_dir: Path, postgres: Postgres) -> None:
    identity(url, state_dir)
    postgres.sql(
        "UPDATE dispatcher.meta SET value = '99' WHERE key NOT IN ('store_id', 'place', 'table')"
    )

    with pytest.raises(StoreUnusable, match=r"PostgreSQL \(.*newer dispatcher \(schema 99"):
        identity(url, state_dir)


def test_a_server_that_is_not_there_is_unavailable_and_no_password_is_shown(
    state_dir: Path, url: str
) -> None:
    with pytest.raises(StoreUnavailable, match=r"host=127\.0\.0\.1 port=1 ") as refused:
        identity("postgresql://me:hunter2@127.0.0.1:1/db", state_dir)

    assert "hunter2" not in str(refused.value)


def test_without_the_driver_the_extra_is_named(url: str, state_dir: Path) -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from pathlib import Path\n"
        "from dispatcher.store.open import open_store\n"
        f"open_store({url!r}, state_dir=Path({str(state_dir)!r}), patience=1)"
    )
    command = [sys.executable, "-c", code]
    tried = subprocess.run(command, check=False, capture_output=True, text=True)

    assert "ConfigError: store.url: " in tried.stderr
    assert "pip install '.[postgres]'" in tried.stderr
