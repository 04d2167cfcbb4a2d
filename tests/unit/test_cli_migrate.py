"""An older database: refused by every verb but those that may bring it up to date."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.host.locks import lock_file
from dispatcher.store import migrations
from tests.command import Command
from tests.postgres import Postgres

#: The schema that this dispatcher works with, and one that comes after it.
NOW = len(migrations.MIGRATIONS)
NEXT = NOW + 1
COLOUR = "ALTER TABLE tasks ADD COLUMN colour TEXT;"


@pytest.fixture
def newer(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A dispatcher that knows one more migration than the one that made the database."""
    command("submit", "--", "true")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, COLOUR))
    return command


def test_an_older_database_is_refused_with_what_to_do(newer: Command) -> None:
    for typed in (("list",), ("submit", "--", "true"), ("status",)):
        report = newer(*typed, exits=78).stderr

        assert (
            f"tasks.db was made by an older dispatcher (schema {NOW}, this one works with {NEXT})"
            in report
        )
        assert "restart the daemon, or run: dispatcher migrate" in report


def test_a_check_reports_what_would_be_done_and_does_nothing(newer: Command) -> None:
    assert f"schema {NOW}; to do: schema {NEXT}\n" == newer("migrate", "--check", exits=1).stdout
    report = newer("migrate", "--check", "--json", exits=1).json
    assert {"before": NOW, "now": NOW, "wanted": NEXT} == report


def test_an_older_database_is_brought_up_to_date_and_keeps_its_tasks(newer: Command) -> None:
    assert f"schema {NOW}; now: schema {NEXT}\n" == newer("migrate").stdout

    assert [1] == [task["id"] for task in newer("list", "--json").json]
    assert f"schema {NEXT}: up to date\n" == newer("migrate", "--check").stdout
    assert f"schema {NEXT}: up to date\n" == newer("migrate").stdout


def test_nothing_is_migrated_under_a_daemon(newer: Command) -> None:
    with closing(
        lock_file(newer.state_dir / "tasks.db.lock", "the database", holder="state directory /x")
    ):
        report = newer("migrate", exits=75).stderr

    assert "tasks.db is in use by pid " in report
    assert f"schema {NOW}; to do: schema {NEXT}\n" == newer("migrate", "--check", exits=1).stdout


def test_a_newer_database_is_refused(newer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    newer("migrate")
    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:NOW])

    for typed in (("migrate",), ("migrate", "--check"), ("list",)):
        report = newer(*typed, exits=78).stderr
        assert (
            f"made by a newer dispatcher (schema {NEXT}, this one knows {NOW}); upgrade" in report
        )


def test_migrate_creates_a_missing_database(command: Command) -> None:
    shutil.rmtree(command.state_dir)

    assert (
        f"no database yet; to do: schema {NOW}\n" == command("migrate", "--check", exits=1).stdout
    )
    assert not command.state_dir.exists()
    assert f"no database yet; now: schema {NOW}\n" == command("migrate").stdout
    assert "no tasks" in command("status").stdout


@pytest.fixture
def on_server(command: Command, postgres: Postgres) -> Iterator[Command]:
    command.configure(f'[store]\nurl = "{postgres.url()}"\nschema = "migrated"')
    (command.state_dir / "store-id").unlink(missing_ok=True)
    yield command
    postgres.sql("DROP SCHEMA IF EXISTS migrated CASCADE")


def test_a_store_on_a_server_is_made_checked_and_brought_up_to_date(
    on_server: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = f"no database yet; to do: schema {NOW}\n"
    assert todo == on_server("migrate", "--check", exits=1).stdout
    assert f"no database yet; now: schema {NOW}\n" == on_server("migrate").stdout
    on_server("submit", "--", "true")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, COLOUR))

    assert "older dispatcher" in on_server("list", exits=78).stderr
    todo = f"schema {NOW}; to do: schema {NEXT}\n"
    assert todo == on_server("migrate", "--check", exits=1).stdout
    assert f"schema {NOW}; now: schema {NEXT}\n" == on_server("migrate").stdout
    assert [1] == [task["id"] for task in on_server("list", "--json").json]


def test_what_a_newer_dispatcher_left_is_used_if_it_says_so(
    on_server: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_server("migrate")
    on_server("submit", "--", "true")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, COLOUR))
    monkeypatch.setattr(migrations, "KEEPING", frozenset({NEXT}))
    on_server("migrate")
    monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:NOW])

    assert f"schema {NEXT}: up to date\n" == on_server("migrate", "--check").stdout
    assert 2 == on_server("submit", "--", "true").id


def test_a_restored_store_on_a_server_is_made_one_of_its_own_by_a_verb(
    on_server: Command, postgres: Postgres
) -> None:
    on_server("migrate")
    on_server("submit", "--", "true")
    postgres.sql("UPDATE migrated.meta SET value = '1.2' WHERE key = 'place'")  # as in a copy
    assert "dispatcher restore" in on_server("list", exits=78).stderr
    whole = on_server("restore", "--complete", "--json").json
    postgres.sql("UPDATE migrated.meta SET value = '1.2' WHERE key = 'place'")
    printed = on_server("restore").stdout

    assert 2 == whole["next_id"]
    assert "schema=migrated): 1 tasks, the next one is " in printed
    assert on_server("submit", "--", "true").id > 10**9


def test_a_file_and_a_server_are_not_restored_alike(command: Command, tmp_path: Path) -> None:
    assert "FILE is missing" in command("restore", exits=2).stderr
    report = command("restore", "--complete", tmp_path / "x", exits=2).stderr
    assert "--complete is for a store on a server" in report
