"""The roles of docs/roles.sql may do what they are for, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from dispatcher.environment import Environment
from dispatcher.errors import DispatcherError
from dispatcher.model import Node, TaskFilter
from dispatcher.schedules import ScheduleChange
from dispatcher.store import server_facts
from dispatcher.store.open import open_store, server_of
from dispatcher.times import WallTime
from dispatcher.wire import RunUid
from dispatcher.words import Beat
from tests.contract.doubles import AllHooks
from tests.contract.helpers import NODE, NOW, SHARED, OneByOne, later, new_task
from tests.postgres import Postgres

pytestmark = SHARED

SCRIPT = Path(__file__).parents[2] / "docs" / "roles.sql"

#: The members of the roles, from the one that may do least.
MEMBERS = ("submitter", "operator", "runner")
ROLES = ("dispatcher_submit", "dispatcher_operate", "dispatcher_run")

ENVIRONMENT = Environment({"A": "1"})


def in_bulk(store: OneByOne) -> None:
    store.stage("uid", 0, [new_task(environment=ENVIRONMENT)], now=NOW)
    store.accept("uid", now=NOW)
    store.admit("uid", now=NOW)
    store.remove_parts("uid")


def edited(store: OneByOne) -> bool:
    task = store.task(2)
    return bool(store.edit(task, replace(task, priority=5), now=NOW))


def retried_parent(store: OneByOne) -> None:
    child = store.new(after=(1,))
    store.cancel(1, "why", now=NOW)
    store.resolve(limit=9, now=NOW)
    store.lock_for_retry([1])
    store.retry(1, now=NOW)
    store.release(child, now=NOW)


def with_a_hook(store: OneByOne) -> None:
    store.raw.use_hooks(AllHooks())
    store.hold(store.new(), "why", now=NOW)
    store.pause("another", "why", now=NOW)
    store.raw.use_hooks(None)


def paused_schedule(store: OneByOne) -> None:
    at = WallTime(NOW)
    store.take_schedules({"nightly": "0 3 * * * UTC"}, at=at)
    store.change_schedule("nightly", ScheduleChange.PAUSE, reason="why", at=at, now=NOW)
    store.change_schedule("nightly", ScheduleChange.FORGET, at=at, now=NOW)


def in_one(store: OneByOne, statement: str, values: dict[str, object] | None = None) -> Any:
    with store.raw.transaction():
        return store.sql(statement, values)


#: What is done with a store of one ready, one held and one finished task.
READS: dict[str, Callable[[OneByOne], Any]] = {
    "task": lambda store: store.task(1),
    "tasks": lambda store: store.tasks(TaskFilter()),
    "runs": lambda store: store.runs(3),
    "last_run": lambda store: store.last_run(3),
    "open_runs": lambda store: store.open_runs(NODE),
    "counts": lambda store: store.counts(),
    "outcomes": lambda store: store.outcomes(),
    "nodes": lambda store: store.nodes(),
    "leases": lambda store: store.leases(),
    "paused_queues": lambda store: store.paused_queues(),
    "closings": lambda store: store.closings(),
    "limit_views": lambda store: store.limit_views({}, now=NOW),
    "environment": lambda store: store.environment(1),
    "events": lambda store: store.task_events(3),
    "coming": lambda store: store.coming(),
}

SUBMITS: dict[str, Callable[[OneByOne], Any]] = {
    "submit": lambda store: store.new(payload="1", key="new"),
    "submit a used key": lambda store: store.new(key="used", queue="default"),
    "with an environment": lambda store: store.new(environment=ENVIRONMENT),
    "with one that is there": lambda store: [store.new(environment=ENVIRONMENT) for _ in "12"],
    "with a used key and one": lambda store: store.new(key="used", environment=ENVIRONMENT),
    "after others": lambda store: store.new(after=(1, 3), after_any=(2,)),
    "in bulk": in_bulk,
    "continue_silent": lambda store: store.continue_silent(now=later(10**8)),
}

OPERATES: dict[str, Callable[[OneByOne], Any]] = {
    "cancel": lambda store: store.cancel(1, "why", now=NOW),
    "hold": lambda store: store.hold(1, "why", now=NOW),
    "release": lambda store: store.release(2, now=NOW),
    "retry": lambda store: store.retry(2, now=NOW),
    "retry a parent": retried_parent,
    "with a hook": with_a_hook,
    "pause a schedule": paused_schedule,
    "answer": lambda store: store.answer(2, "yes", now=NOW),
    "end a run": lambda store: store.cancel(4, "why", now=NOW),
    "pause": lambda store: store.pause("default", "why", now=NOW),
    "close a limit": lambda store: store.close_limit("provider", "why", now=NOW),
    "open a limit": lambda store: store.open_limit("provider", now=NOW),
    "resume": lambda store: store.resume("default", now=NOW),
    "prune": lambda store: store.prune(before=later(10**9), limit=100),
    "edit": edited,
    "prune events": lambda store: store.prune_events(before=later(10**9), limit=100),
    "settle": lambda store: store.settle([], now=NOW),
    "abandoned": lambda store: store.abandoned(limit=9, now=NOW),
}

RUNS: dict[str, Callable[[OneByOne], Any]] = {
    "claim": lambda store: store.end(store.take()[0]),
    "heartbeat": lambda store: store.heartbeat([Beat(task_id=4, lock="no")], now=NOW),
    "locks": lambda store: store.locks_of([RunUid("x")]),
    "confirm": lambda store: store.confirm(NODE, later(10**6)),
    "renew": lambda store: store.renew(NODE, now=NOW),
    "give_keys": lambda store: store.give_keys(limit=9),
    "move_due": lambda store: store.move_due(limit=10, now=later(10**9)),
    "give_up": lambda store: store.give_up(limit=10, now=later(10**9)),
    "stranded": lambda store: store.stranded("another", now=later(10**9)),
}

#: What nobody may do but the owner.
OWNS = (
    "DROP TABLE tasks",
    "ALTER TABLE tasks ADD COLUMN mine TEXT",
    "CREATE TABLE mine (id BIGINT)",
    "UPDATE events SET who = ''",
    "TRUNCATE tasks",
)

#: What a role may not do even with statements of its own.
REFUSED = {
    "submitter": (
        "UPDATE tasks SET state = 'held'",
        "DELETE FROM tasks",
        "SELECT lock FROM runs",
        "SELECT * FROM runs",
        "INSERT INTO runs DEFAULT VALUES",
        "UPDATE meta SET value = ''",
        "UPDATE environments SET variables = ''",
        "UPDATE dependencies SET state = 'met'",
        "INSERT INTO handovers (task_id) VALUES (1)",
        "DELETE FROM nodes",
        "DELETE FROM events",
        *OWNS,
    ),
    "operator": (
        "SELECT lock FROM runs",
        "UPDATE runs SET lock = ''",
        "INSERT INTO runs DEFAULT VALUES",
        "UPDATE meta SET value = ''",
        *OWNS,
    ),
    "runner": OWNS,
}


@pytest.fixture
def roles(raw: Any, postgres: Postgres) -> Iterator[None]:
    """The roles, with a member each that may log in, in a store with a few tasks."""
    for _ in range(2):  # it may be run again
        postgres.sql(SCRIPT.read_text())
    for member, role in zip(MEMBERS, ROLES, strict=True):
        postgres.sql(f"CREATE ROLE {member} LOGIN; GRANT {role} TO {member}")
    owner = OneByOne(raw)
    owner.new(key="used")
    owner.hold(owner.new(), "why", now=NOW)
    owner.finished()
    owner.claimed()
    yield
    everybody = ", ".join((*MEMBERS, *ROLES))
    postgres.sql(f"DROP OWNED BY {everybody}; DROP ROLE {everybody}")


@pytest.fixture
def member(request: pytest.FixtureRequest, roles: None, postgres: Postgres, tmp_path: Path) -> Any:
    url = postgres.url(user=request.param)
    with closing(open_store(url, state_dir=tmp_path / request.param, patience=5)) as store:
        yield OneByOne(store)


def may(*members: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("member", members, indirect=True)


@may(*MEMBERS)
def test_every_role_reads(member: OneByOne) -> None:
    for read in READS.values():
        read(member)


@may(*MEMBERS)
def test_every_role_submits(member: OneByOne) -> None:
    for submit in SUBMITS.values():
        submit(member)


@may("operator", "runner")
def test_operators_and_daemons_operate(member: OneByOne) -> None:
    for operate in OPERATES.values():
        operate(member)


@may("runner")
def test_daemons_run(member: OneByOne) -> None:
    node = {"boot_id": "b", "pid_namespace": "p", "hostname": "h", "slots": 1}
    member.record_node(Node(id=NODE, seen_at=NOW, seen_interval_ms=1, **node))
    for run in RUNS.values():
        run(member)


@pytest.mark.parametrize("verb", OPERATES)
@may("submitter")
def test_a_submitter_does_not_operate(member: OneByOne, verb: str) -> None:
    if verb == "settle":  # of nothing
        return
    with pytest.raises(DispatcherError, match=r"denied.* dispatcher_operate or .* TO submitter"):
        OPERATES[verb](member)


@pytest.mark.parametrize("verb", ["claim", "heartbeat", "locks"])
@may("submitter", "operator")
def test_only_who_runs_tasks_claims_and_sees_locks(member: OneByOne, verb: str) -> None:
    with pytest.raises(DispatcherError, match="permission denied"):
        RUNS[verb](member)


@may(*MEMBERS)
def test_no_role_may_do_more(member: OneByOne, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["member"]
    for statement in REFUSED[name]:
        with pytest.raises(DispatcherError, match=r"permission denied|must be owner"):
            in_one(member, statement)


@may("submitter")
def test_an_environment_in_use_can_be_neither_removed_nor_renumbered(member: OneByOne) -> None:
    member.new(environment=ENVIRONMENT)
    for statement in ("DELETE FROM environments", "UPDATE environments SET id = id + 1"):
        with pytest.raises(DispatcherError, match="foreign key"):
            in_one(member, statement)


def test_doctors_facts_name_what_a_role_lacks(roles: None, postgres: Postgres) -> None:
    facts = {
        name: server_facts.read(server_of(postgres.url(user=name), "dispatcher", patience=5))
        for name in MEMBERS
    }

    assert "update tasks" in facts["submitter"].denied
    assert "insert runs" in facts["operator"].denied
    assert () == facts["runner"].denied
    assert [False] * 3 == [facts[name].is_owner for name in MEMBERS]


def test_a_table_of_an_upgrade_is_open_to_daemons_at_once(roles: None, postgres: Postgres) -> None:
    postgres.sql("CREATE TABLE dispatcher.colours (name TEXT)")
    try:
        with psycopg.connect(postgres.url(user="runner"), autocommit=True) as runner:
            runner.execute("INSERT INTO dispatcher.colours VALUES ('red')")
        with psycopg.connect(postgres.url(user="submitter")) as submitter:
            found = submitter.execute("SELECT * FROM dispatcher.colours").fetchall()
        assert [("red",)] == found
    finally:
        postgres.sql("DROP TABLE dispatcher.colours")
