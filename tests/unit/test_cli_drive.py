"""`claim`, `heartbeat`, `complete` and `fail` in this process."""

import errno
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import InvalidTask, NoLock, StoreUnavailable
from dispatcher.model import TaskState
from dispatcher.store.sql import SqlStore
from dispatcher.words import Accepted, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.command import Command

LOCK = "DISPATCHER_CLAIM_LOCK"


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    for name in (LOCK, "DISPATCHER_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    command = Command(tmp_path, capsys, monkeypatch)
    command("submit", "--", "true")
    return command


def claimed(command: Command, *arguments: object) -> dict[str, Any]:
    facts: dict[str, Any] = command("claim", "--json", *arguments).json
    return facts


def sql(command: Command, statement: str) -> list[Any]:
    with command.client() as client:
        store: Any = client.store
        with store.transaction():
            rows: list[Any] = store.engine.rows(statement)
    return rows


def rewind(command: Command) -> None:
    sql(command, "UPDATE runs SET lease_expires_at = 1 RETURNING id")


def left_ms(command: Command) -> int:
    ((expiry, takeover),) = sql(
        command, "SELECT lease_expires_at, takeover_at FROM runs WHERE outcome IS NULL"
    )
    assert expiry == takeover
    with command.client() as client, client.store.transaction() as now:
        return int(expiry - now)


def everything(command: Command) -> list[Any]:
    return sql(command, "SELECT * FROM tasks") + sql(command, "SELECT * FROM runs")


# Claiming ----------------------------------------------------------------------------------


def test_ac1_ac3_a_claim_prints_its_lock_which_renews_it_from_a_later_command(
    command: Command,
) -> None:
    facts = claimed(command)
    rewind(command)

    answer = command("heartbeat", "--task", 1, "--lock", facts["lock"], "--json").json

    assert (True, 1, ["true"]) == (answer["ok"], facts["fence"], facts["command"])
    assert left_ms(command) > 30_000


def test_ac3_a_missing_lock_is_named_and_is_never_ok(command: Command) -> None:
    claimed(command)
    before = everything(command)

    for verb in (["heartbeat"], ["complete"], ["fail", "--reason", "x"]):
        for lock in ([], ["--lock", ""]):
            result = command(*verb, "--task", 1, *lock, exits=2)
            assert "no lock for task 1" in result.stderr
            assert "--lock-file" in result.stderr
            assert "" == result.stdout

    assert before == everything(command)


def test_claim_prints_task_lock_fence_and_expiry_for_people(command: Command) -> None:
    printed = dict(line.split() for line in command("claim").stdout.splitlines())

    assert ["task_id", "lock", "fence", "lease_expires_at"] == list(printed)
    command("heartbeat", "--task", printed["task_id"], "--lock", printed["lock"])


def test_a_lock_file_is_private_and_keeps_the_lock_off_the_screen(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "lock"
    file.write_text("of another claim\n")
    file.chmod(0o644)

    result = command("claim", "--lock-file", file)

    assert 0o600 == file.stat().st_mode & 0o777
    assert file.read_text().strip() not in result.stdout
    command("heartbeat", "--task", 1, "--lock-file", file)
    assert [file.name] == [f.name for f in tmp_path.iterdir() if f.name.startswith("lock")]


def test_a_lock_file_survives_a_claim_of_nothing(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "lock"
    command("claim", "--lock-file", file)
    lock = file.read_text()

    command("claim", "--lock-file", file, exits=1)

    assert lock == file.read_text()
    assert [file.name] == [f.name for f in tmp_path.iterdir() if f.name.startswith("lock")]


def test_a_lock_file_that_cannot_be_written_claims_nothing(
    command: Command, tmp_path: Path
) -> None:
    command("claim", "--lock-file", tmp_path / "nowhere" / "lock", exits=1)

    assert "ready" == command("show", 1, "--json").json["state"]


def test_a_directory_as_lock_file_is_refused_and_claims_nothing(
    command: Command, tmp_path: Path
) -> None:
    message = command("claim", "--lock-file", tmp_path, exits=2).stderr

    assert "is a directory" in message
    assert "ready" == command("show", 1, "--json").json["state"]


def test_a_claim_whose_lock_cannot_be_kept_after_all_is_given_back(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        message = command("claim", "--lock-file", tmp_path / "lock", exits=1).stderr

    assert "No space left on device" in message
    assert "task 1 was given back" in message
    assert "ready" == command("show", 1, "--json").json["state"]


@pytest.mark.parametrize("progress", ["nan", "inf", "-inf"])
def test_a_progress_that_is_not_a_number_is_refused(command: Command, progress: str) -> None:
    facts = claimed(command)

    command("heartbeat", "--task", 1, "--lock", facts["lock"], "--progress", progress, exits=2)
    with command.client() as client, pytest.raises(ValueError, match="progress"):
        client.heartbeat(1, lock=facts["lock"], progress=float(progress))

    assert command("show", 1, "--json").json["runs"][0]["last_heartbeat_at"] is None


@pytest.mark.parametrize("ttl", ["0s", "199ms", "3651d"])
def test_a_lease_that_no_task_may_have_is_refused_in_the_words_of_the_option(
    command: Command, ttl: str
) -> None:
    for verb in (["claim", "--ttl", ttl], ["submit", "--lease-ttl", ttl, "--", "true"]):
        assert "lease_ttl: must be from 200ms to 3650d" in command(*verb, exits=2).stderr


def test_a_missing_lock_file_is_reported(command: Command, tmp_path: Path) -> None:
    claimed(command)

    message = command("heartbeat", "--task", 1, "--lock-file", tmp_path / "nowhere", exits=2).stderr

    assert "no lock: cannot read" in message


def exports_of(stdout: str) -> dict[str, str]:
    """Return the variables that lines of shell export."""
    lines = (shlex.split(line) for line in stdout.splitlines())
    return dict(words[1].split("=", 1) for words in lines if words[0] == "export")


def test_exported_lines_are_what_a_shell_needs_and_no_marker(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = exports_of(command("claim", "--export").stdout)

    assert ("1", "1", "60") == tuple(
        exported[f"DISPATCHER_{name}"] for name in ("TASK_ID", "FENCE", "LEASE_TTL")
    )
    assert "20.000" == exported["DISPATCHER_HEARTBEAT_INTERVAL"]
    assert "DISPATCHER_RUN" not in exported
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    command("heartbeat")
    command("complete")
    assert "succeeded" == command("show", 1, "--json").json["state"]


def test_exported_lines_leave_out_a_lock_that_is_kept_in_a_file(
    command: Command, tmp_path: Path
) -> None:
    printed = command("claim", "--export", "--lock-file", tmp_path / "lock").stdout

    assert LOCK not in exports_of(printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queue", "empty"], "nothing to claim in queue 'empty'"),
        (["--task", 99], "no task 99"),
        (["--task", 1], "task 1 is running"),
    ],
)
def test_nothing_to_claim_exits_1_with_the_reason(
    command: Command, arguments: list[object], message: str
) -> None:
    claimed(command)

    assert message in command("claim", *arguments, exits=1).stderr


def test_a_ttl_is_the_tasks_lease_and_must_be_one(command: Command) -> None:
    assert "must be from 200ms" in command("claim", "--ttl", "199ms", exits=2).stderr

    assert 1_800_000 == claimed(command, "--ttl", "30m")["lease_ttl_ms"]

    assert 1_700_000 < left_ms(command) <= 1_800_000


def test_a_task_whose_time_has_come_is_claimed_without_any_daemon(command: Command) -> None:
    command("submit", "--queue", "q", "--delay", "1ms", "--", "true")

    assert 2 == claimed(command, "--queue", "q")["task_id"]


def test_a_task_whose_time_is_over_is_claimed_no_more(command: Command) -> None:
    command("submit", "--queue", "q", "--queue-timeout", "1ms", "--", "true")

    command("claim", "--queue", "q", exits=1)

    assert "failed" == command("show", 2, "--json").json["state"]


def test_logs_explains_that_the_output_of_a_local_claim_is_not_here(command: Command) -> None:
    claimed(command)

    assert "run 1 is a local claim" in command("logs", 1, exits=1).stderr


# Refusals ----------------------------------------------------------------------------------


def test_the_reports_of_a_worker_are_shown_to_people(command: Command) -> None:
    command("submit", "--payload", '{"rows": [1,\n2]}', "--", "true")
    lock = claimed(command, "--task", 2)["lock"]
    before = command("show", 2).stdout
    assert "heartbeat" not in before
    assert "heartbeat" not in command("why", 2).stdout
    command("heartbeat", "--task", 2, "--lock", lock, "--progress", "0.5", "--note", "halfway")

    why, running = command("why", 2).stdout, command("show", 2).stdout
    command("complete", "--task", 2, "--lock", lock, "--result", f'"{"x" * 500}"')
    done = command("show", 2).stdout

    assert re.search(r'its last heartbeat came .*: 50 % "halfway"', why)
    assert '  progress   50 % "halfway"\n' in running
    assert re.search(r"  heartbeat  (now|. s ago)\n", running)
    assert r'  payload    {"rows": [1,\n2]}' in running
    assert re.search(r'  result     "x{118}…\n', done)
    # A local claim began with the claim: the table has STARTED, and then TOOK.
    assert re.search(r"running +(now|. s ago)", running)
    assert re.search(r"succeeded +(now|. s ago) +\d\.\ds", done)


@pytest.mark.parametrize("verb", [["heartbeat"], ["complete"], ["fail", "--reason", "x"]])
@pytest.mark.parametrize(
    ("error", "exits"),
    [
        (WorkerError.NOT_OWNER, 79),
        (WorkerError.SUPERSEDED, 79),
        (WorkerError.NOT_RUNNING, 79),
        (WorkerError.UNKNOWN_TASK, 79),
    ],
)
def test_ac4_r02_each_refusal_has_its_name_exits_79_and_writes_nothing(
    command: Command, verb: list[str], error: WorkerError, exits: int
) -> None:
    lock, task = claimed(command)["lock"], 1
    if error is WorkerError.NOT_OWNER:
        lock = lock[:-1]
    elif error is WorkerError.UNKNOWN_TASK:
        task = 99
    else:
        sql(command, "UPDATE runs SET lease_expires_at = 1, takeover_at = 1 RETURNING id")
        command("claim", exits=1)  # takes back what has expired: no daemon is needed
        assert "scheduled" == command("show", 1, "--json").json["state"]
    if error is WorkerError.SUPERSEDED:
        sql(command, "UPDATE tasks SET run_at = 0 RETURNING id")
        claimed(command)
    before = everything(command)

    result = command(*verb, "--task", task, "--lock", lock, "--json", exits=exits)

    assert (False, error) == (result.json["ok"], result.json["error"])
    assert f"dispatcher: {error}: " in result.stderr
    assert "stop working" in result.stderr
    assert before == everything(command)


def test_r02_a_store_that_does_not_answer_is_69_and_never_ok(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = claimed(command)["lock"]

    def silent(_: SqlStore) -> Any:
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr(SqlStore, "transaction", silent)

    for verb in (["heartbeat"], ["complete"], ["fail", "--reason", "x"]):
        result = command(*verb, "--task", 1, "--lock", lock, exits=69)
        assert "" == result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["heartbeat", "--progress", "1.5"],
        ["heartbeat", "--note", "x" * 5_000],
        ["complete", "--result", "{"],
        ["complete", "--result", f'"{"x" * 40_000}"'],
        ["fail"],
        ["fail", "--reason", "x" * 5_000],
        ["heartbeat", "--lock-file", "lock"],
    ],
)
def test_a_report_that_no_worker_may_send_is_a_usage_error(
    command: Command, arguments: list[str]
) -> None:
    lock = claimed(command, "--lock-file", "lock")
    before = everything(command)

    command(*arguments, "--task", 1, "--lock", lock, exits=2)

    assert before == everything(command)


# Ends --------------------------------------------------------------------------------------


def test_a_completed_local_claim_is_settled_at_once_without_a_daemon(command: Command) -> None:
    lock = claimed(command)["lock"]
    command("heartbeat", "--task", 1, "--lock", lock, "--progress", "0.5", "--note", "half")

    command("complete", "--task", 1, "--lock", lock, "--result", '{"rows": 3}')

    task = command("show", 1, "--json").json
    (run,) = task["runs"]
    assert ("succeeded", "succeeded", 0) == (task["state"], run["outcome"], task["attempts_used"])
    assert ({"rows": 3}, 0.5, "half") == (run["result"], run["progress"], run["note"])
    command("complete", "--task", 1, "--lock", lock, "--result", '{"rows": 3}')  # a lost reply
    other = command("complete", "--task", 1, "--lock", lock, "--json", exits=1).json
    assert "already_declared" == other["error"]


@pytest.mark.parametrize(
    ("more", "state"), [([], TaskState.SCHEDULED), (["--no-retry"], TaskState.FAILED)]
)
def test_a_failed_local_claim_uses_an_attempt_up(
    command: Command, more: list[str], state: TaskState
) -> None:
    lock = claimed(command)["lock"]

    command("fail", "--task", 1, "--lock", lock, "--reason", "no such branch", *more)

    task = command("show", 1, "--json").json
    assert (state, 1) == (task["state"], task["attempts_used"])
    assert "no such branch" in task["reason"]


def test_r18_a_cancelled_local_claim_is_settled_at_once_and_its_lock_is_void(
    command: Command,
) -> None:
    lock = claimed(command)["lock"]

    assert "1 cancelled\n" == command("cancel", 1).stdout

    assert "cancelled" == command("show", 1, "--json").json["state"]
    command("heartbeat", "--task", 1, "--lock", lock, exits=79)


def test_a_repeated_declaration_does_not_settle_the_next_claim(command: Command) -> None:
    first = claimed(command)["lock"]
    command("fail", "--task", 1, "--lock", first, "--reason", "x")
    sql(command, "UPDATE tasks SET run_at = 0 RETURNING id")
    claimed(command)

    command("fail", "--task", 1, "--lock", first, "--reason", "x")  # a lost reply, late

    assert "running" == command("show", 1, "--json").json["state"]


# The Python client -------------------------------------------------------------------------


def test_ac3_ac12_a_client_remembers_the_lock_it_was_given(command: Command) -> None:
    with command.client() as client:
        claim = client.claim()
        assert claim is not None
        sql(command, "UPDATE runs SET lease_expires_at = 1 RETURNING id")

        assert isinstance(client.heartbeat(claim.task_id), Renewed)

        assert left_ms(command) > 30_000
        assert Accepted() == client.complete(claim.task_id, result={"rows": 3})
        assert TaskState.SUCCEEDED is client.tasks()[0].state


def test_ac12_a_client_takes_the_lock_of_its_environment(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCK, claimed(command)["lock"])
    sql(command, "UPDATE runs SET lease_expires_at = 1 RETURNING id")

    with command.client() as client:
        assert isinstance(client.heartbeat(1), Renewed)

    assert left_ms(command) > 30_000


def test_a_lock_that_was_given_goes_before_one_that_is_remembered(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCK, "of an outer run")
    with command.client() as client:
        claim = client.claim()
        assert claim is not None

        assert isinstance(client.heartbeat(1), Renewed)  # remembered, not the environment's
        refused = client.heartbeat(1, lock="given")

    assert isinstance(refused, Refused)
    assert WorkerError.NOT_OWNER is refused.error


def test_a_client_without_any_lock_raises(command: Command) -> None:
    claimed(command)

    with command.client() as client, pytest.raises(NoLock, match="no lock for task 1"):
        client.heartbeat(1)


def test_a_client_refuses_a_report_that_no_worker_could_send(command: Command) -> None:
    with command.client() as client:
        client.claim()
        with pytest.raises(ValueError, match="progress"):
            client.heartbeat(1, progress=2.0)
        with pytest.raises(ValueError, match="result"):
            client.complete(1, result="x" * 40_000)
        with pytest.raises(InvalidTask, match="lease_ttl"):
            client.claim(lease_ttl_ms=0)
        assert client.claim(task_id=1) is None
