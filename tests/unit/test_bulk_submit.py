"""Bulk submits by the client: all or nothing whatever fails, and never all of it in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import bulk
from dispatcher.client import Client
from dispatcher.environment import Environment
from dispatcher.errors import CommitUnknown, DispatcherError, InvalidTask, StoreUnavailable
from dispatcher.model import TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.sql import SqlStore
from dispatcher.store.submits import CONTINUE_AFTER, GONE_AFTER
from dispatcher.supervisor.admission import LOOK_INTERVAL, STEP_INTERVAL
from dispatcher.times import Instant, StoreTime
from tests.command import Command
from tests.simulation import SETTINGS, World
from tests.unit.test_supervisor import Unwell

TASK = NewTask(command=("true",), max_attempts=1, lease_ttl_ms=1_000)

#: Tasks in a part, parts in a submit, and transactions in it: each part is put aside and made
#: tasks; before that a look for others' leavings, between them the acceptance, after them a look
#: for more.
TASKS, PARTS = 3, 4
BEFORE = 1 + PARTS
ALL = BEFORE + 1 + PARTS + 1


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setattr(bulk, "PART_TASKS", TASKS)
    monkeypatch.setattr(bulk, "GAP", 0.0)
    return Command(tmp_path, capsys, monkeypatch)


@pytest.fixture
def client(client: Client) -> Client:
    client.store = Unwell(client.store)  # type: ignore[assignment]
    return client


def kept(client: Client) -> tuple[int, int, int]:
    """Return how many tasks, bulk submits and parts there are."""
    store: Any = client.store
    with store.snapshot():
        return tuple(  # type: ignore[return-value]
            store.engine.rows(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("tasks", "bulk_submits", "bulk_parts")
        )


def go_on(client: Client, milliseconds: int) -> None:
    """Do what a daemon does for the client that was silent for so long."""
    more = True
    while more:
        with client.store.transaction() as now:
            more = client.store.continue_silent(now=StoreTime(now + milliseconds))


def fail_at(client: Client, number: int, error: BaseException, *, committed: bool) -> None:
    store: Any = client.store
    quiet: list[tuple[Any, bool]] = [(None, True)] * number
    store.failures = [*quiet, (error, committed)]


def test_tasks_are_taken_one_by_one_and_put_aside_before_more_are_taken(client: Client) -> None:
    seen: list[tuple[int, int, int]] = []

    def tasks() -> Iterator[NewTask]:
        for number in range(TASKS * PARTS):
            if number % TASKS == 0:
                seen.append(kept(client))
            yield TASK

    submitted = client.submit_all(tasks())

    # A part is whole when a task of the next one comes, and the first waits for the second.
    assert [(0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 1, 2)] == seen
    assert (TASKS * PARTS, 1, PARTS) == kept(client)
    assert list(range(1, TASKS * PARTS + 1)) == [one.task_id for one in submitted]
    assert (TASKS * PARTS, 0, 0) == kept(client)


def test_a_submit_that_fits_into_one_part_is_one_transaction_and_leaves_only_tasks(
    client: Client,
) -> None:
    fail_at(client, 1, StoreUnavailable("a second transaction"), committed=False)

    assert TASKS == len(client.submit_many([TASK] * TASKS))

    assert (TASKS, 0, 0) == kept(client)


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": f'"{"x" * 90}"'},
        {"payload": f'"{"€" * 20}"'},
        {"env": {"N" * 90: ""}},
        {"key": "k" * 90},
        {"cwd": "/" + "d" * 90},
        {"labels": {"l" * 90: ""}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_r69_a_part_is_bounded_in_bytes_whatever_makes_its_tasks_long(
    client: Client, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(bulk, "PART_BYTES", 200)
    long = NewTask(command=("true",), max_attempts=1, lease_ttl_ms=1_000, **fields)

    submitted = client.submit_all([long, long])

    assert (1, 2) == kept(client)[1:]
    submitted.close()


@pytest.mark.parametrize(("values", "parts"), [("aaaa", 2), ("abcd", 4)])
def test_r69_a_part_is_bounded_by_its_environments_of_which_equal_ones_count_once(
    client: Client, monkeypatch: pytest.MonkeyPatch, values: str, parts: int
) -> None:
    monkeypatch.setattr(bulk, "PART_BYTES", 1_500)
    tasks = [replace(TASK, environment=Environment({"A": value * 1_000})) for value in values]

    submitted = client.submit_all(tasks)

    assert parts == kept(client)[2]
    submitted.close()


@pytest.mark.parametrize("number", range(ALL))
@pytest.mark.parametrize("error", [StoreUnavailable("locked"), KeyboardInterrupt()], ids=repr)
def test_r68_any_failure_leaves_all_accepted_or_none_and_the_caller_learns_which(
    client: Client, number: int, error: BaseException
) -> None:
    fail_at(client, number, error, committed=False)

    with pytest.raises((DispatcherError, KeyboardInterrupt)) as raised:
        client.submit_many([TASK] * (TASKS * PARTS))

    if number <= BEFORE:
        assert raised.value is error
        assert (0, 0, 0) == kept(client)
    else:
        assert isinstance(raised.value, CommitUnknown)
        assert "all 12 tasks are accepted" in str(raised.value)
        go_on(client, CONTINUE_AFTER + 1)
        assert (TASKS * PARTS, 1, PARTS) == kept(client)
    go_on(client, GONE_AFTER + 1)
    assert (TASKS * PARTS if number > BEFORE else 0, 0, 0) == kept(client)


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("number", range(ALL))
def test_r68_a_commit_without_an_answer_is_made_once_more_and_no_task_twice(
    client: Client, number: int, *, committed: bool
) -> None:
    fail_at(client, number, CommitUnknown("no answer"), committed=committed)

    submitted = client.submit_many([TASK] * (TASKS * PARTS))

    assert list(range(1, TASKS * PARTS + 1)) == [one.task_id for one in submitted]
    assert (TASKS * PARTS, 0, 0) == kept(client)


class Killed(BaseException):
    """SIGKILL: nobody cleans up."""


def kill_at(client: Client, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit, and die at the end of a transaction, committed."""
    fail_at(client, number, Killed(), committed=True)
    with monkeypatch.context() as dead:
        dead.setattr(client.store, "remove_parts", lambda _: False)
        with pytest.raises((Killed, CommitUnknown)):
            client.submit_many([TASK] * (TASKS * PARTS))


@pytest.mark.parametrize("number", range(ALL))
def test_r68_after_a_death_between_two_commits_the_next_bulk_submit_cleans_up_or_goes_on(
    client: Client, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(client, number, monkeypatch)
    was_accepted = number >= BEFORE
    assert not kept(client)[0] or was_accepted
    store: Any = client.store
    with store.transaction():
        store.engine.change("UPDATE bulk_submits SET seen_at = seen_at - 3600001")

    client.submit_many([TASK] * (TASKS * PARTS))

    assert (TASKS * PARTS * (2 if was_accepted else 1), 0, 0) == kept(client)


@pytest.mark.parametrize("keep", [True, False])
def test_a_mistake_late_in_a_file_leaves_nothing_and_names_its_line(
    command: Command, *, keep: bool
) -> None:
    good = b'{"command": ["true"]}\n' * (TASKS * PARTS)
    bad = good + (b"" if keep else b'{"command": []}\n')

    result = command("submit", "--from", "-", stdin=bad, exits=0 if keep else 2)

    with command.client() as client:
        assert (TASKS * PARTS if keep else 0, 0, 0) == kept(client)
    if not keep:
        assert "line 13: command: is empty" in result.stderr
        assert "" == result.stdout


def test_a_line_without_an_end_is_refused_and_not_read_to_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.cli.lines.LONGEST", 100)
    endless = b'{"command": ["true"]}\n' + b"[" * 1_000

    result = command("submit", "--from", "-", stdin=endless, exits=2)

    assert "line 2: is longer than 100 bytes; give each task a line of its own" in result.stderr


@pytest.mark.parametrize("many", [0, 1, TASKS * PARTS])
def test_ids_and_json_of_many_are_what_they_are_of_few(command: Command, many: int) -> None:
    lines = b'{"command": ["true"]}\n' * many

    ids = command("submit", "--from", "-", stdin=lines).stdout
    found = command("submit", "--from", "-", "--json", stdin=lines)

    assert "".join(f"{number}\n" for number in range(1, many + 1)) == ids
    assert [
        {"id": many + n, "created": True, "differs": []} for n in range(1, many + 1)
    ] == found.json
    assert found.stdout.endswith("]\n")


def test_two_lines_with_one_key_are_one_task_in_whatever_parts(client: Client) -> None:
    keyed = NewTask(command=("true",), max_attempts=1, lease_ttl_ms=1_000, key="k")

    submitted = client.submit_many([keyed, *[TASK] * TASKS, keyed])

    assert [True] * (TASKS + 1) + [False] == [one.created for one in submitted]
    assert submitted[0].task_id == submitted[-1].task_id


def test_lines_that_come_seldom_are_signs_of_life_though_they_fill_no_part(client: Client) -> None:
    store: Any = client.store
    clock = [Instant(0.0)]

    def tasks() -> Iterator[NewTask]:
        yield from [TASK] * (2 * TASKS + 1)
        for _ in range(TASKS - 1):
            clock[0] = Instant(clock[0] + 3_540)
            with store.transaction():
                store.engine.change("UPDATE bulk_submits SET seen_at = seen_at - 3540000")
            go_on(client, 0)
            yield TASK

    submitted = bulk.submit(
        store,
        client.config.state_dir,
        tasks(),
        at_once=lambda _: [],
        report=lambda *_: None,
        clock=lambda: clock[0],
    )

    assert 3 * TASKS == len(list(submitted))


def test_a_submit_that_stood_still_for_an_hour_reports_that_nothing_was_submitted(
    client: Client,
) -> None:
    def tasks() -> Iterator[NewTask]:
        yield from [TASK] * (TASKS * 2 + 1)
        go_on(client, GONE_AFTER + 1)
        yield from [TASK] * TASKS

    with pytest.raises(StoreUnavailable, match=r"nothing was submitted: .*submit again"):
        client.submit_many(tasks())

    assert (0, 0, 0) == kept(client)


def test_ids_that_nobody_read_for_an_hour_are_reported_as_lost(client: Client) -> None:
    submitted = client.submit_all([TASK] * (TASKS * PARTS))
    go_on(client, GONE_AFTER + 1)

    with pytest.raises(CommitUnknown, match="all tasks are accepted, but the ids of some"):
        next(submitted)

    assert (TASKS * PARTS, 0, 0) == kept(client)


def test_a_wrong_file_makes_no_store(command: Command) -> None:
    command("submit", "--from", "nowhere", exits=2)
    command("submit", "--from", "-", stdin=b"{}", exits=2)

    assert not (command.state_dir / "tasks.db").exists()


def test_a_wrong_task_is_refused_before_the_next_one_is_taken(client: Client) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[NewTask]:
        for number in range(TASKS):
            taken.append(number)
            yield NewTask(command=(), max_attempts=1, lease_ttl_ms=1_000)

    with pytest.raises(InvalidTask):
        client.submit_many(tasks())

    assert [0] == taken


def test_status_reports_what_is_accepted_and_not_listed_yet(command: Command) -> None:
    command("submit", "--", "true")
    assert "coming" not in command("status").stdout
    with command.client() as client, client.store.transaction() as now:
        client.store.stage("bulk", 0, [TASK] * 2, now=now)
        client.store.accept("bulk", now=now)

    assert (
        "coming    2 tasks of a bulk submit are accepted; their submit, or"
        in command("status").stdout
    )
    assert 2 == command("status", "--json").json["coming"]


def test_a_backup_during_a_bulk_submit_is_restored_with_only_the_accepted_tasks(
    command: Command,
) -> None:
    with command.client() as client, client.store.transaction() as now:
        for uid in ("accepted", "open"):
            for part in range(2):
                client.store.stage(uid, part, [TASK] * 2, now=now)
        client.store.accept("accepted", now=now)
        client.store.admit("accepted", now=now)
    backup = command.state_dir / "backup.db"

    command("backup", backup)
    with command.client() as client:
        go_on(client, GONE_AFTER + 1)
        assert (4, 0, 0) == kept(client)
    command("restore", backup)

    with command.client() as client:
        go_on(client, CONTINUE_AFTER + 1)
        tasks, submits, _ = kept(client)
        assert (4, 2) == (tasks, submits)
        restored = {task.id for task in client.tasks()}
        assert not {3, 4} & restored  # those that the other store gave meanwhile
        go_on(client, GONE_AFTER + 1)
        assert (4, 0, 0) == kept(client)


# The daemon, in virtual time ------------------------------------------------------------------


def left_behind(world: World, *, accepted: bool) -> None:
    """Leave a bulk submit of two parts behind, as a client that was killed does."""
    with world.store.transaction() as now:
        for part in range(2):
            world.store.stage("bulk", part, [TASK] * 2, now=now)
        if accepted:
            world.store.accept("bulk", now=now)


def tables(world: World) -> tuple[int, int]:
    store = world.store
    assert isinstance(store, SqlStore)
    with store.snapshot():
        return tuple(  # type: ignore[return-value]
            store.engine.rows(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("tasks", "bulk_submits")
        )


def test_r68_a_daemon_goes_on_with_what_a_client_left_accepted_and_runs_it() -> None:
    world = World()
    left_behind(world, accepted=True)
    world.start()
    assert (0, 1) == tables(world)

    world.run_for(CONTINUE_AFTER / 1000 + LOOK_INTERVAL + STEP_INTERVAL)

    assert (4, 1) == tables(world)
    world.settle_down()
    assert world.state(1) is TaskState.RUNNING


@pytest.mark.parametrize("accepted", [True, False])
def test_an_hour_later_a_daemon_leaves_nothing_but_tasks(*, accepted: bool) -> None:
    world = World()
    left_behind(world, accepted=accepted)
    world.start()

    world.run_for(GONE_AFTER / 1000 + 2 * LOOK_INTERVAL)

    assert (4 if accepted else 0, 0) == tables(world)


def test_no_tick_is_made_for_bulk_submits_without_any() -> None:
    world = World(settings=replace(SETTINGS, poll=3600.0, reap_interval=3600.0)).start()
    world.run_for(2 * LOOK_INTERVAL)

    assert world.deadline > world.at() + LOOK_INTERVAL
