"""`dispatcher doctor` looks at the server that holds the store, and names who slows it down."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from msgspec.structs import replace

from dispatcher.config.config import load
from dispatcher.doctor import server as doctor
from dispatcher.doctor.finding import Finding, Level
from dispatcher.store import server_facts
from dispatcher.store.server_facts import Holder, Locker, ServerFacts
from dispatcher.times import StoreTime
from tests.command import Command
from tests.pooler import Pooler
from tests.postgres import Postgres
from tests.unit.test_cli_nodes import record
from tests.unit.test_nodes import HERE, THERE

HEALTHY = ServerFacts(
    version="17.2",
    role="host7",
    others=(),
    owner="admin",
    is_owner=False,
    denied=(),
    is_pooled=False,
    is_distant=True,
    is_encrypted=True,
    connections=10,
    settings={"fsync": "on", "max_connections": "100", "superuser_reserved_connections": "3"},
    now=StoreTime(1_000_000),
    took=0.0,
    holders=(),
    lockers=(),
    dead=("runs", 100, 1000),
    queue=0.0,
    oldest=None,
)


@pytest.fixture
def shared(command: Command, postgres: Postgres) -> Iterator[Command]:
    command.configure(f'[store]\nurl = "{postgres.url()}"\nschema = "examined"')
    (command.state_dir / "store-id").unlink(missing_ok=True)
    yield command
    postgres.sql("DROP SCHEMA IF EXISTS examined CASCADE")


def found(command: Command) -> dict[str, Finding]:
    return {one.check: one for one in doctor.server(load(str(command.config_file)))}


def test_a_healthy_server_has_no_fault_but_the_settings_of_tests(shared: Command) -> None:
    shared("migrate")
    shared("submit", "--", "true")
    findings = list(doctor.server(load(str(shared.config_file))))

    checks = ["store", "counts", "server", "schemas", "role", "clock", "encryption"]
    checks += ["server settings"] * 3 + ["connections", "notifications", "dead rows"]
    assert checks == [one.check for one in findings]
    settings = [one.text.partition(":")[0] for one in findings if one.check == "server settings"]
    assert ["fsync = off", "full_page_writes = off", "autovacuum = off"] == settings
    rest = {one.level for one in findings if one.check != "server settings"}
    assert {Level.OK} == rest, findings


def test_a_server_without_a_store_is_examined_all_the_same(shared: Command) -> None:
    findings = found(shared)

    assert "holds no store" in findings["store"].text
    assert "the schema examined is not there yet" in findings["role"].text


def test_a_function_that_a_role_may_not_execute_is_named(
    shared: Command, postgres: Postgres
) -> None:
    shared("migrate")
    revoked = "EXECUTE ON FUNCTION pg_current_wal_lsn()"
    postgres.sql("CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA examined TO guest")
    postgres.sql("GRANT ALL ON ALL TABLES IN SCHEMA examined TO guest")
    postgres.sql(f"REVOKE {revoked} FROM PUBLIC")
    shared.configure(f'[store]\nurl = "{postgres.url(user="guest")}"\nschema = "examined"')
    findings = found(shared)
    postgres.sql(f"GRANT {revoked} TO PUBLIC; DROP OWNED BY guest; DROP ROLE guest")

    assert "without the server's timeline" in str(findings["store"].remedy)
    assert "execute pg_current_wal_lsn()" in findings["role"].text


def test_other_stores_of_the_database_are_listed(shared: Command, postgres: Postgres) -> None:
    shared("migrate")
    assert "examined" not in found(shared)["schemas"].text
    shared.configure(f'[store]\nurl = "{postgres.url()}"\nschema = "mistyped"')
    (shared.state_dir / "store-id").unlink()
    shared("migrate")
    listed = found(shared)["schemas"].text
    postgres.sql("DROP SCHEMA mistyped CASCADE")

    assert "holds other stores, in: " in listed
    assert "examined" in listed
    assert "mistyped" not in listed
    assert "no other schema" in doctor.check_schemas(HEALTHY).text


def test_a_server_that_is_not_there_is_reported_once(command: Command) -> None:
    command.configure('[store]\nurl = "postgresql://127.0.0.1:1/"')

    assert ["store"] == list(found(command))


def test_the_session_that_holds_a_snapshot_is_named_with_the_way_to_end_it(
    shared: Command, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "HELD", 0)
    shared("migrate")
    shared("submit", "--", "true")
    with closing(postgres.connect()) as holder:
        holder.execute("SET application_name = 'nightly report'")
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        finding = found(shared)["dead rows"]
        pid = holder.info.backend_pid

    assert f"session {pid} (postgres, nightly report, idle in transaction)" in finding.text
    assert f"SELECT pg_terminate_backend({pid})" in str(finding.remedy)
    assert Level.OK is found(shared)["dead rows"].level


def test_an_open_transaction_of_a_writer_holds_dead_rows_back_too(
    shared: Command, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "HELD", 0)
    shared("migrate")
    shared("submit", "--", "true")
    with closing(postgres.connect()) as writer:
        writer.execute("BEGIN; UPDATE examined.tasks SET priority = 1")

        assert f"session {writer.info.backend_pid} " in found(shared)["dead rows"].text


def test_a_pooler_in_between_is_named_with_what_it_costs(
    shared: Command, postgres: Postgres
) -> None:
    shared("migrate")
    assert "pooler" not in found(shared)
    with Pooler(postgres).running() as pooler:
        shared.configure(f'[store]\nurl = "{pooler.url()}"\nschema = "examined"')
        findings = found(shared)

    assert Level.WARNING is findings["pooler"].level
    assert "daemons poll" in findings["pooler"].text
    assert "the pooler is on this host" in findings["encryption"].text


def test_a_role_that_sees_no_times_of_others_still_sees_who_it_is(
    shared: Command, postgres: Postgres
) -> None:
    shared("migrate")
    shared("submit", "--", "true")
    postgres.sql("CREATE ROLE guest LOGIN")
    with closing(postgres.connect()) as holder:
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        at = doctor.server_of(postgres.url(user="guest"), "examined", patience=5)
        (one,) = server_facts.read(at).holders
        pid = holder.info.backend_pid
    postgres.sql("DROP ROLE guest")

    assert ("session", None) == (one.kind, one.seconds)
    assert one.name.startswith(f"{pid} (postgres")


@pytest.mark.parametrize(
    ("holder", "remedy"),
    [
        (Holder(kind="session", name="7 (x)", age=1, seconds=61.0), "pg_terminate_backend(7)"),
        (Holder(kind="session", name="7 (x)", age=100_000, seconds=None), "terminate_backend(7)"),
        (Holder(kind="prepared transaction", name="xa", age=1, seconds=61), "PREPARED 'xa'"),
        (Holder(kind="replication slot", name="old", age=200_000, seconds=None), "slot('old')"),
        (Holder(kind="standby", name="9 (x)", age=1, seconds=61), "hot_standby_feedback"),
    ],
)
def test_whatever_holds_dead_rows_back_is_named_with_its_remedy(
    holder: Holder, remedy: str
) -> None:
    (finding,) = doctor.check_dead_rows(replace(HEALTHY, holders=(holder,)))

    assert (Level.WARNING, True) == (finding.level, remedy in str(finding.remedy)), finding


def test_a_session_that_holds_locks_for_long_is_named_with_the_way_to_end_it() -> None:
    lockers = tuple(Locker(name="7 (x)", tables="runs", seconds=one) for one in (11.0, 9.0, None))
    (finding,) = doctor.check_locks(replace(HEALTHY, lockers=lockers))

    assert "session 7 (x) has held locks on runs for 11 s" in finding.text
    assert "pg_terminate_backend(7)" in str(finding.remedy)


def test_who_has_locked_rows_of_the_store_is_read(shared: Command, postgres: Postgres) -> None:
    shared("migrate")
    with closing(postgres.connect()) as holder:
        holder.execute("BEGIN; SELECT 1 FROM examined.runs, examined.tasks FOR UPDATE")
        (one,) = server_facts.read(doctor.server_of(postgres.url(), "examined", patience=5)).lockers
        pid = holder.info.backend_pid

    assert ("runs, tasks", True) == (one.tables, one.name.startswith(f"{pid} (postgres"))
    assert one.seconds is not None


@pytest.mark.parametrize(("seconds", "age"), [(59.0, 10**6), (None, 99_999)])
def test_a_snapshot_that_is_held_briefly_is_no_fault(seconds: float | None, age: int) -> None:
    holder = Holder(kind="session", name="7 (x)", age=age, seconds=seconds)
    (finding,) = doctor.check_dead_rows(replace(HEALTHY, holders=(holder,)))

    assert Level.OK is finding.level


def test_dead_rows_that_nobody_removes_are_reported() -> None:
    (many,) = doctor.check_dead_rows(replace(HEALTHY, dead=("runs", 30_000, 10_000)))
    (few,) = doctor.check_dead_rows(replace(HEALTHY, dead=("runs", 30_000, 10**6)))

    assert (Level.WARNING, "VACUUM runs") == (many.level, str(many.remedy).partition(";")[0])
    assert Level.OK is few.level


def test_the_session_that_may_keep_notifications_in_the_queue_is_named(
    shared: Command, postgres: Postgres
) -> None:
    shared("migrate")
    shared("submit", "--", "true")
    with closing(postgres.connect()) as holder:
        holder.execute("SET application_name = 'listener'; LISTEN x")
        holder.execute("BEGIN; SELECT 1")
        facts = server_facts.read(
            doctor.server_of(postgres.url(), "examined", patience=5),
        )
        pid = holder.info.backend_pid
    finding = doctor.check_notifications(replace(facts, queue=0.6))

    assert Level.OK is doctor.check_notifications(facts).level
    assert Level.WARNING is finding.level
    assert "60 % full; from 90 % on commits wake no daemon. Of the sessions" in finding.text
    assert f"{pid} (postgres, listener, idle in transaction)" in finding.text
    assert f"SELECT pg_terminate_backend({pid})" in str(finding.remedy)


def test_a_queue_whose_holder_cannot_be_seen_is_reported_too() -> None:
    finding = doctor.check_notifications(replace(HEALTHY, queue=0.6))

    assert "LISTEN" in str(finding.remedy)


@pytest.mark.parametrize(
    ("changed", "mode", "level", "text"),
    [
        ({"is_distant": False, "is_encrypted": False}, "prefer", Level.OK, "on this host"),
        (
            {"is_distant": False, "is_pooled": True},
            "prefer",
            Level.OK,
            "the pooler is on this host",
        ),
        ({"is_encrypted": False}, "prefer", Level.WARNING, "not encrypted"),
        ({}, "require", Level.WARNING, "whoever answers"),
        ({}, "verify-full", Level.OK, "TLS"),
    ],
)
def test_a_connection_that_others_may_read_or_answer_is_a_warning(
    changed: dict[str, bool], mode: str, level: Level, text: str
) -> None:
    finding = doctor.check_encryption(replace(HEALTHY, **changed), mode)

    assert (level, True) == (finding.level, text in finding.text), finding


@pytest.mark.parametrize(
    ("host_ms", "took", "text"),
    [
        (1_000_500, 0.0, "agrees"),
        (1_003_000, 0.0, "3 s ahead of"),
        (997_000, 0.0, "3 s behind"),
        (1_003_000, 2.5, "agrees"),  # the reading took that long
    ],
)
def test_a_hosts_clock_that_is_wrong_is_a_warning(host_ms: int, took: float, text: str) -> None:
    finding = doctor.check_clock(replace(HEALTHY, took=took), host_ms)

    assert text in finding.text
    assert (Level.OK if text == "agrees" else Level.WARNING) is finding.level


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("fsync", "off", Level.BAD),
        ("full_page_writes", "off", Level.BAD),
        ("synchronous_commit", "off", Level.WARNING),
        ("autovacuum", "off", Level.WARNING),
        ("transaction_timeout", "500", Level.WARNING),
    ],
)
def test_a_setting_that_breaks_a_promise_is_reported(name: str, value: str, level: Level) -> None:
    settings = {**HEALTHY.settings, name: value}
    (finding,) = doctor.check_settings(replace(HEALTHY, settings=settings))

    assert level is finding.level
    assert [] == list(doctor.check_settings(HEALTHY))


def test_few_free_connections_are_a_warning() -> None:
    assert Level.WARNING is doctor.check_connections(replace(HEALTHY, connections=80)).level
    assert Level.OK is doctor.check_connections(HEALTHY).level


def test_a_role_is_judged_by_what_a_daemon_needs() -> None:
    lacks = doctor.check_role(replace(HEALTHY, denied=("update tasks",)), "jobs")

    assert (Level.WARNING, True) == (lacks.level, "GRANT jobs_run TO host7" in str(lacks.remedy))
    assert "admin upgrades" in doctor.check_role(HEALTHY, "jobs").text
    assert "owns" in doctor.check_role(replace(HEALTHY, is_owner=True), "jobs").text


def test_limits_of_which_the_files_of_hosts_say_different_things_are_a_warning(
    shared: Command,
) -> None:
    shared("migrate")
    assert "limits" not in found(shared)
    record(shared, replace(HERE, obeys={"api": "4 at once"}), replace(THERE, obeys={}), session="s")

    finding = found(shared)["limits"]

    assert Level.WARNING is finding.level
    assert "the limit api differs: 4 at once on web-1; none on web-2" == finding.text
    assert "dispatcher reload" in (finding.remedy or "")
