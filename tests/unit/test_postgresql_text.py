"""The translation of the store's SQL for PostgreSQL."""

import subprocess
import sys

import psycopg
import pytest

from dispatcher.errors import (
    StoreLocked,
    StoreRefused,
    StoreUnavailable,
    StoreUnusable,
    StoreWithheld,
)
from dispatcher.store import postgresql_errors
from dispatcher.store.postgresql_text import Writes, translated, writes_of
from dispatcher.store.statements import nodes, supervisor, workers


def test_each_parameter_has_one_number_in_order_of_its_first_use() -> None:
    statement = "SELECT :b, :a + :b WHERE x = :a_2"

    assert (b"SELECT $1, $2 + $1 WHERE x = $3", ("b", "a", "a_2")) == translated(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'a :b' || 'it''s :c'",
        "SELECT 1 -- don't take :this",
        "SELECT '1'::bigint",
        "SELECT '%s' LIKE '%'",
        "substr(node, 1, 6) = 'local:'",
    ],
)
def test_literals_comments_and_casts_hold_no_parameter(statement: str) -> None:
    assert (statement.encode(), ()) == translated(statement)


@pytest.mark.parametrize(
    ("state", "kind", "remedy", "ends"),
    [
        ("40001", StoreUnavailable, "try again", False),
        ("53100", StoreUnavailable, "room on its disk", False),
        ("53300", StoreUnavailable, "CONNECTION LIMIT", False),
        ("55P03", StoreLocked, "held a lock for more than 5 s", False),
        ("57014", StoreUnavailable, "slows it down", False),
        ("57P01", StoreUnavailable, "is the server up", True),
        ("25006", StoreUnavailable, "name the primary", True),
        ("25P03", StoreUnavailable, "try again", True),
        ("26000", StoreUnavailable, "a pooler in between", True),
        ("08006", StoreUnavailable, "is the server up", True),
        ("22003", StoreRefused, "", False),
        ("23514", StoreRefused, "", False),
        ("54000", StoreRefused, "", False),
        ("3D000", StoreWithheld, "createdb", False),
        ("3F000", StoreWithheld, "store.schema", False),
        ("42P01", StoreWithheld, "restore it", False),
        ("42703", StoreUnusable, "restore it", False),
        ("42501", StoreWithheld, "grant this role", False),
        ("28P01", StoreWithheld, "PGPASSFILE", False),
        ("XX001", StoreUnavailable, "its log", False),
    ],
)
def test_an_error_is_translated_by_its_state(
    state: str, kind: type[Exception], remedy: str, ends: bool
) -> None:
    error = psycopg.errors.lookup(state)("it failed")
    found = postgresql_errors.translated(error, "PostgreSQL (host=h)", 5.0)

    assert kind is type(found)
    assert remedy in str(found)
    assert ends == postgresql_errors.ends_session(error)


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        ('FATAL:  too many connections for role "host7"', StoreUnavailable, "CONNECTION LIMIT"),
        ('FATAL:  too many connections for database "d"', StoreUnavailable, "CONNECTION LIMIT"),
        ("FATAL:  sorry, too many clients already", StoreUnavailable, "max_connections"),
        (
            "FATAL:  remaining connection slots are reserved for superusers",
            StoreUnavailable,
            "max_connections",
        ),
        ("session is read-only", StoreUnavailable, "name the primary"),
        ("Connection refused", StoreUnavailable, "is the server up"),
        ('FATAL:  no pg_hba.conf entry for host "h"', StoreWithheld, "pg_hba.conf lets in"),
        ('FATAL:  database "d" does not exist', StoreWithheld, "createdb"),
    ],
)
def test_what_is_refused_before_a_session_exists_has_its_remedy(
    text: str, kind: type[Exception], remedy: str
) -> None:
    error = psycopg.OperationalError(f"connection to server at h failed: {text}")
    found = postgresql_errors.translated(error, "PostgreSQL (host=h)", 5.0)

    assert kind is type(found)
    assert remedy in str(found)


def test_a_session_that_was_idle_too_long_had_no_commit_under_way() -> None:
    idle, ended = (psycopg.errors.lookup(state)("it") for state in ("25P03", "57P01"))

    assert postgresql_errors.proves_no_commit(idle)
    assert not postgresql_errors.proves_no_commit(ended)


def test_a_mistake_of_the_program_stays_what_it_is() -> None:
    mistake = psycopg.ProgrammingError("the query has 1 placeholder")

    with pytest.raises(psycopg.ProgrammingError):
        postgresql_errors.translated(mistake, "it", 1.0)


def test_an_embedded_installation_never_loads_the_driver() -> None:
    code = "import sys, dispatcher.cli.app, dispatcher.client; sys.exit('psycopg' in sys.modules)"

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (supervisor.NEXT_DUE, None),
        (supervisor.READY_QUEUES, None),
        (supervisor.RENEW, Writes.FORGETTABLE),
        (workers.RENEW_SHORT, Writes.FORGETTABLE),
        (nodes.RECORD, Writes.FORGETTABLE),
        (nodes.TAKE, Writes.LASTING),
        (workers.HEARTBEAT, Writes.LASTING),
        (supervisor.CONFIRM, Writes.LASTING),
        (supervisor.CLOSE, Writes.LASTING),
    ],
)
def test_a_crash_may_forget_only_what_nobody_was_answered(
    statement: str, expected: Writes | None
) -> None:
    assert expected is writes_of(statement)
