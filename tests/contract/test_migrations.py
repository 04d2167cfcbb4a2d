from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dispatcher.errors import StoreRefused, StoreUnusable
from dispatcher.execution import RetryPolicy
from dispatcher.model import Intent, Outcome, TaskState
from dispatcher.store import migrate, migrations
from dispatcher.store.clock import Clock
from dispatcher.store.engine import Row, transaction
from dispatcher.store.sql import SqlStore
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.times import HOST_CLOCK, StoreTime
from dispatcher.words import Beat, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import OneByOne, new_task

#: Migrations to come, for what they must never do.
COLOUR = "ALTER TABLE tasks ADD COLUMN colour TEXT; CREATE INDEX tasks_colour ON tasks (colour);"
BROKEN = "ALTER TABLE tasks ADD COLUMN shape TEXT; ALTER TABLE absent ADD COLUMN shape TEXT;"

#: The version that this dispatcher works with.
NOW = len(migrations.MIGRATIONS)


@contextmanager
def database(path: Path) -> Iterator[SqliteEngine]:
    """Open a database file, made empty if missing."""
    path.touch()
    with closing(SqliteEngine(path, patience=0)) as engine:
        yield engine


def query(engine: SqliteEngine, statement: str) -> list[Row]:
    """Return the rows of a statement in a transaction of its own."""
    with transaction(engine, write=False):
        return engine.rows(statement)


def definition(engine: SqliteEngine) -> set[Row]:
    """Return what defines the database."""
    return set(query(engine, "SELECT type, name, sql FROM sqlite_schema"))


def layout(engine: SqliteEngine) -> set[Row]:
    """Return the columns of all tables, and the definitions of all indexes."""
    columns = query(
        engine,
        """SELECT sqlite_schema.name, info.name, info.type, info."notnull", info.dflt_value
        FROM sqlite_schema JOIN pragma_table_info(sqlite_schema.name) AS info""",
    )
    indexes = query(engine, "SELECT name, sql FROM sqlite_schema WHERE type = 'index'")
    return {*columns, *indexes}


def version(engine: SqliteEngine) -> str:
    """Return the schema's version as it was written."""
    ((number,),) = query(engine, "SELECT value FROM meta WHERE key = 'schema_version'")
    return str(number)


@pytest.mark.parametrize("migrations", [migrations.MIGRATIONS, (*migrations.MIGRATIONS, COLOUR)])
def test_all_migrations_make_the_fresh_schema(tmp_path: Path, migrations: tuple[str, ...]) -> None:
    with database(tmp_path / "fresh.db") as fresh, database(tmp_path / "old.db") as old:
        migrate.create(fresh, migrations)
        identity = migrate.create(old, migrations[:1])
        for known in range(1, len(migrations) + 1):
            assert identity == migrate.adopt(old, migrations[:known])

        assert definition(fresh) == definition(old)
        assert version(fresh) == version(old) == str(len(migrations))


def test_the_migrations_make_the_tables_that_a_new_database_gets_at_once(tmp_path: Path) -> None:
    with database(tmp_path / "new.db") as new, database(tmp_path / "old.db") as old:
        migrate.create(new)
        migrate.create(old, migrations.MIGRATIONS)

        assert layout(new) == layout(old)
        assert version(new) == version(old)


def test_an_upgrade_keeps_what_was_stored(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine)
        with transaction(engine, write=True):
            engine.change("INSERT INTO paused_queues VALUES ('ci', 'upgrade', 7)")

        migrate.adopt(engine, (*migrations.MIGRATIONS, COLOUR))

        assert query(engine, "SELECT * FROM paused_queues") == [("ci", "upgrade", 7)]


def test_an_upgrade_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine)
        before = definition(engine)

        with pytest.raises(StoreUnusable):
            migrate.adopt(engine, (*migrations.MIGRATIONS, COLOUR, BROKEN))

        assert before == definition(engine)
        assert version(engine) == str(NOW)


def test_a_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, (*migrations.MIGRATIONS, COLOUR))
        before = definition(engine)

        with pytest.raises(
            StoreUnusable, match=rf"newer .*schema {NOW + 1}, .* knows {NOW}\); upgr"
        ):
            migrate.adopt(engine)

        assert before == definition(engine)


class Overtaken(SqliteEngine):
    """An engine that another upgrade overtakes before its first write."""

    overtake = True

    def begin(self, *, write: bool, schema: bool = False) -> None:
        if write and self.overtake:
            self.overtake = False
            with database(self._path) as faster:
                migrate.adopt(faster, (*migrations.MIGRATIONS, COLOUR))
        super().begin(write=write, schema=schema)


def test_two_upgrades_at_once_apply_each_step_once(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine)
    with closing(Overtaken(tmp_path / "tasks.db", patience=0)) as slower:
        migrate.adopt(slower, (*migrations.MIGRATIONS, COLOUR))

        assert version(slower) == str(NOW + 1)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta",
        "DELETE FROM meta WHERE key = 'store_id'",
        "UPDATE meta SET value = 'one' WHERE key = 'schema_version'",
        "UPDATE meta SET value = '' WHERE key = 'store_id'",
    ],
)
def test_a_database_without_version_or_identity_is_refused(tmp_path: Path, damage: str) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine)
        with transaction(engine, write=True):
            engine.change(damage)

        with pytest.raises(StoreUnusable, match="restore"):
            migrate.adopt(engine)


def test_a_run_that_was_open_before_kill_graces_were_kept_has_its_tasks_or_the_default(
    tmp_path: Path,
) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:1])
        with transaction(engine, write=True):
            for number, (grace, outcome) in enumerate(
                (("NULL", "NULL"), ("7", "NULL"), ("7", "'failed'")), start=1
            ):
                engine.change(
                    "INSERT INTO tasks (id, state, reason, queue, priority, liveness, lease_ttl_ms,"
                    " max_attempts, created_at, run_at, labels, env, command, kill_grace_ms)"
                    f" VALUES ({number}, 'ready', '', 'q', 0, 'process', 1, 1, 1, 1, '', '', '',"
                    f" {grace})"
                )
                engine.change(
                    "INSERT INTO runs (task_id, uid, attempt, fence, lock, node, claimed_at,"
                    " output_path, outcome, ended_at, reason)"
                    f" VALUES ({number}, '{number}', 1, 1, '', 'n', 1, '', {outcome},"
                    f" {'NULL' if outcome == 'NULL' else '1'},"
                    f" {'NULL' if outcome == 'NULL' else chr(39) * 2})"
                )

        migrate.adopt(engine)

        kept = query(engine, "SELECT kill_grace_ms FROM runs ORDER BY id")
        assert [(10_000,), (7,), (None,)] == kept


def test_attempts_used_keep_their_count_under_their_new_name(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:8])
        with transaction(engine, write=True):
            engine.change(
                "INSERT INTO tasks (state, reason, queue, priority, liveness, lease_ttl_ms,"
                " attempt, max_attempts, created_at, run_at, labels, env, command)"
                " VALUES ('ready', '', 'q', 0, 'process', 1, 2, 3, 1, 1, '', '', '')"
            )

        migrate.adopt(engine)

        assert [(2,)] == query(engine, "SELECT attempts_used FROM tasks")
        with pytest.raises(StoreRefused), transaction(engine, write=True):
            engine.change("UPDATE tasks SET attempts_used = -1")


def test_a_total_time_out_keeps_the_retry_from_which_it_counts(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:10])
        with transaction(engine, write=True):
            for total_ms, total_at in (("NULL", "NULL"), ("5", "6"), ("5", "9")):
                engine.change(
                    "INSERT INTO tasks (state, reason, queue, priority, liveness, lease_ttl_ms,"
                    " max_attempts, created_at, run_at, labels, env, command, total_timeout_ms,"
                    " total_at, fails_at) VALUES ('ready', '', 'q', 0, 'process', 1, 3, 1, 1, '',"
                    f" '', '', {total_ms}, {total_at}, {total_at})"
                )

        migrate.adopt(engine)

        kept = query(engine, "SELECT retried_at FROM tasks ORDER BY id")
        assert [(None,), (None,), (4,)] == kept


def test_tasks_of_schema_11_get_the_built_in_retry_policy_and_their_own_kill_grace_or_that(
    tmp_path: Path,
) -> None:
    """What the daemon's file said until then is nowhere in the database."""
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:11])
        with transaction(engine, write=True):
            for grace in ("NULL", "7"):
                engine.change(
                    "INSERT INTO tasks (state, reason, queue, priority, liveness, lease_ttl_ms,"
                    " max_attempts, created_at, run_at, labels, env, command, kill_grace_ms)"
                    " VALUES ('ready', '', 'q', 0, 'process', 1, 3, 1, 1, '{}', '{}', '[\"x\"]',"
                    f" {grace})"
                )

        store = SqlStore(engine, migrate.adopt(engine), Clock(HOST_CLOCK))
        with store.transaction() as now:
            claims = store.claim("q", limit=2, node="n", output_dir="/o", now=now)
            runs = store.open_runs("n")

    assert [10_000, 7] == [claim.kill_grace_ms for claim in claims]
    assert [(RetryPolicy(), 10_000), (RetryPolicy(), 7)] == [
        (run.retry, run.kill_grace_ms) for run in runs
    ]


#: Rows of schema 11: task 1 is ending, task 2 runs, task 3 has succeeded and task 4 was pruned.
_RUNNING_AT_11 = (
    """
    INSERT INTO tasks (id, state, reason, queue, priority, liveness, lease_ttl_ms, max_attempts,
        fence, created_at, run_at, labels, env, command, lock, owner, run_uid, lease_expires_at,
        last_heartbeat_at, progress, note, progressed_at, ending, ending_reason, intent,
        intent_reason)
    VALUES
        (1, 'running', 'x', 'q', 0, 'worker', 60, 3, 1, 1, 1, '{}', '{}', '["a"]', 'nobody''s',
         'n', 'u1', 500, NULL, NULL, NULL, NULL, 'cancelled', 'not needed', 'cancel', 'by me'),
        (2, 'running', 'x', 'q', 0, 'worker', 60, 3, 2, 1, 1, '{}', '{}', '["b"]', 'lock2',
         'n', 'u2', 700, 640, 0.5, 'half', 630, NULL, NULL, NULL, NULL)
    """,
    """
    INSERT INTO tasks (id, state, reason, queue, priority, liveness, lease_ttl_ms, max_attempts,
        fence, created_at, run_at, finished_at, labels, env, command)
    VALUES
        (3, 'succeeded', '', 'q', 0, 'process', 60, 3, 1, 1, 1, 9, '{}', '{}', '["c"]'),
        (4, 'succeeded', '', 'q', 0, 'process', 60, 3, 1, 1, 1, 9, '{}', '{}', '["d"]')
    """,
    """
    INSERT INTO runs (task_id, uid, attempt, fence, lock, node, claimed_at, kill_grace_ms,
        output_path, declared, outcome, reason, ended_at, lease_expires_at)
    VALUES
        (2, 'u0', 1, 1, 'lock0', 'n', 1, NULL, '/o/u0', NULL, 'lost', 'silent', 5, 4),
        (1, 'u1', 1, 1, 'lock1', 'n', 2, 7, '/o/u1', NULL, NULL, NULL, NULL, NULL),
        (2, 'u2', 1, 2, 'lock2', 'n', 3, 8, '/o/u2', NULL, NULL, NULL, NULL, NULL),
        (3, 'u3', 1, 1, 'lock3', 'n', 4, NULL, '/o/u3', NULL, 'succeeded', '', 9, NULL)
    """,
    "INSERT INTO payloads VALUES (2, '[1]')",
    "DELETE FROM tasks WHERE id = 4",
)


def test_what_runs_at_an_upgrade_from_schema_11_keeps_its_claim(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:11])
        with transaction(engine, write=True):
            for statement in _RUNNING_AT_11:
                engine.change(statement)

        store = SqlStore(engine, migrate.adopt(engine), Clock(HOST_CLOCK))
        at = StoreTime(650)
        with store.transaction():
            ending, running = store.open_runs("n")
            beats = [Beat(task_id=1, lock="lock1"), Beat(task_id=2, lock="lock2")]
            refused, renewed = store.heartbeat(beats, now=at)
            earlier, live = store.runs(2)
            task = store.task(2)
            (new,) = store.submit([new_task()], now=at)

        assert (Outcome.CANCELLED, "not needed") == (ending.ending, ending.ending_reason)
        assert (Intent.CANCEL, "by me") == (ending.intent, ending.intent_reason)
        assert (500, 700) == (ending.lease_expires_at, running.lease_expires_at)
        assert (8, 640, 630) == (
            running.kill_grace_ms,
            running.last_heartbeat_at,
            running.progressed_at,
        )
        assert Refused(WorkerError.NOT_OWNER, TaskState.RUNNING, 1) == refused
        assert Renewed(StoreTime(710)) == renewed
        assert (Outcome.LOST, 4) == (earlier.outcome, earlier.lease_expires_at)
        assert (0.5, "half") == (live.progress, live.note)
        assert task is not None
        assert "[1]" == task.payload
        assert 5 == new.task_id
        assert [] == query(engine, "PRAGMA foreign_key_check")


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [("progress", "7.5", None), ("progress", "'x'", None), ("progress", "0.5", 0.5)]
    + [(name, "'x'", "x") for name in ("lease_expires_at", "exit_code", "left_alone", "note")],
)
def test_no_closed_run_that_was_changed_by_hand_stops_an_upgrade_from_schema_11(
    tmp_path: Path, column: str, value: str, kept: object
) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:11])
        with transaction(engine, write=True):
            for statement in _RUNNING_AT_11:
                engine.change(statement)
            engine.change(f"UPDATE runs SET {column} = {value} WHERE uid = 'u3'")

        migrate.adopt(engine)

        assert [(kept,)] == query(engine, f"SELECT {column} FROM runs WHERE uid = 'u3'")


def test_a_run_that_was_opened_again_by_hand_is_closed_by_an_upgrade_from_schema_11(
    tmp_path: Path,
) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:11])
        with transaction(engine, write=True):
            for statement in _RUNNING_AT_11:
                engine.change(statement)
            again = "outcome = NULL, reason = NULL, ended_at = NULL"
            engine.change(f"UPDATE runs SET {again} WHERE uid = 'u0' OR uid = 'u3'")

        migrate.adopt(engine)

        kept = query(engine, "SELECT uid, outcome, ended_at, reason FROM runs ORDER BY uid")
        reason = "damaged by hand: open, but not its task's run"
        assert [
            ("u0", "lost", 1, reason),
            ("u1", None, None, None),
            ("u2", None, None, None),
            ("u3", "lost", 4, reason),
        ] == kept


def test_nodes_and_tasks_of_schema_12_have_no_labels_and_take_work(tmp_path: Path) -> None:
    with database(tmp_path / "tasks.db") as engine:
        migrate.create(engine, migrations.MIGRATIONS[:12])
        with transaction(engine, write=True):
            engine.change("INSERT INTO nodes VALUES ('n', 'b', 'p', 'h', 4, 2, 3)")
            engine.change(
                "INSERT INTO tasks (state, reason, queue, priority, liveness, lease_ttl_ms,"
                " max_attempts, created_at, run_at, labels, env, command)"
                " VALUES ('ready', '', 'q', 0, 'process', 1, 3, 1, 1, '{}', '{}', '[\"x\"]')"
            )

        migrate.adopt(engine)

        node = "session, release, labels, draining, timeline, listen"
        assert [("", "", "{}", None, 0, None)] == query(engine, f"SELECT {node} FROM nodes")
        assert [(None,)] == query(engine, "SELECT requires FROM tasks")
        assert [] == query(engine, "SELECT * FROM limits")


#: Tasks of schema 19: id, state, priority, created_at, and the labels that they require.
_READY_AT_19 = (
    (1, "ready", 0, 5_000, None),
    (2, "ready", 1, 9_000, None),
    (3, "failed", 0, 4_000, None),
    (4, "ready", 0, 4_000, '{"gpu":"a100","disk":"ssd"}'),
    (5, "ready", 2, 8_000, '{"gpu":"a100"}'),
    (6, "ready", 0, 4_000, "nope"),
    (7, "ready", 2**62, 4_000, None),
)


@pytest.mark.parametrize("url", ["postgresql", "sqlite"], indirect=True)
def test_ready_tasks_of_schema_19_keep_their_order_and_the_labels_that_they_require(
    raw: SqlStore,
) -> None:
    """As an upgrade fills the columns: on an engine that has the tables before the step."""
    engine = raw.engine
    step = migrations.MIGRATIONS[19]
    assert isinstance(step, str)
    with raw.transaction():
        for index in ("tasks_ready", "tasks_requiring", "tasks_key_holders", "tasks_behind"):
            engine.change(f"DROP INDEX IF EXISTS {index}")
        for column in ("lane", "rank", "ageing_ms"):
            engine.change(f"ALTER TABLE tasks DROP COLUMN {column}")
        engine.change("CREATE INDEX tasks_ready ON tasks (queue)")
        engine.change("CREATE INDEX tasks_requiring ON tasks (requires)")
        for number, state, priority, created_at, requires in _READY_AT_19:
            engine.change(
                "INSERT INTO tasks (id, state, reason, queue, priority, liveness, lease_ttl_ms,"
                " max_attempts, created_at, run_at, labels, env, command, requires, finished_at)"
                " VALUES (:id, :state, '', 'q', :priority, 'process', 60000, 3, :at, 1, '{}',"
                " '{}', '[\"x\"]', :requires, :finished_at)",
                {
                    "id": number,
                    "state": state,
                    "priority": priority,
                    "at": created_at,
                    "requires": requires,
                    "finished_at": 9 if state == "failed" else None,
                },
            )
        migrate._apply(engine, [step])
    store = OneByOne(raw)
    store.retry(3, now=StoreTime(99_000))

    def claimed(**labels: str) -> list[int]:
        given = {"limit": 9, "node": "n", "output_dir": "/o", "now": StoreTime(99_000)}
        return [one.task_id for one in store.claim("q", labels=labels, **given)]

    assert [2, 7, 3, 1] == claimed()
    assert TaskState.HELD is store.task(6).state
    assert [5, 4] == claimed(gpu="a100", disk="ssd")
