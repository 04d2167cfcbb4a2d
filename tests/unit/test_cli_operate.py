import fcntl
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import CommitUnknown
from tests.command import Command
from tests.contract.sqlite_files import file_size_limit


def ids(result: Any) -> list[int]:
    return [task["id"] for task in result.json]


def test_cancel_reports_the_result_for_each_task(command: Command) -> None:
    for _ in range(3):
        command("submit", "--", "true")
    command.run_once()  # task 1
    with command.client() as client, client.store.transaction() as now:
        client.store.claim("default", limit=1, node="n", output_dir="/o", now=now)  # task 2

    result = command("cancel", 1, 2, 3, 9, exits=1)

    assert "2 is being ended; then it is cancelled\n3 cancelled\n" == result.stdout
    assert (
        "dispatcher: the daemon is not running: dispatcher run --detach; a run that is not being"
        " ended yet goes on until it is back\n"
        "dispatcher: task 1 has failed already; there is nothing to cancel\n"
        "dispatcher: no task 9; `dispatcher list` shows those there are\n"
    ) == result.stderr
    assert "cancelled" == command("show", 2, "--json").json["ending"]


def test_cancelling_again_is_fine(command: Command) -> None:
    command("submit", "--", "true")

    done = {"id": 1, "done": True, "ending": None, "then": None, "stranded": None}
    assert [{**done, "was": "ready"}] == command("cancel", 1, "--json").json
    assert [{**done, "was": "cancelled"}] == command("cancel", 1, "--json").json


def test_retry_makes_a_failed_task_ready_with_all_its_attempts(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once()

    assert "1 ready\n" == command("retry", 1).stdout

    task = command("show", 1, "--json").json
    assert ("ready", 0) == (task["state"], task["attempts_used"])


def test_retry_refuses_a_task_that_is_not_over(command: Command) -> None:
    command("submit", "--", "true")

    result = command("retry", 1, exits=1)

    message = "dispatcher: task 1 is ready; only failed, cancelled and held ones can be retried\n"
    assert message == result.stderr


def test_the_refusal_to_retry_what_has_succeeded_names_what_runs_it_again(command: Command) -> None:
    command("submit", "--", "true")
    command("claim", "--task", 1, "--lock-file", "lock")
    command("complete", "--task", 1, "--lock-file", "lock")

    again = "submit a new task with the command that `dispatcher show 1` prints"
    message = f"dispatcher: task 1 has succeeded; to run it again, {again}\n"
    assert message == command("retry", 1, exits=1).stderr


def test_prune_deletes_old_tasks_and_their_files_and_no_others(command: Command) -> None:
    command.configure('[output]\nretention = "1h"')
    for _ in range(3):
        command("submit", "--", "true")
    with command.client() as client, client.store.snapshot() as now:
        old = now - 2 * 3_600_000
    _, old_file = command.run_once(ended_at=old)
    _, new_file = command.run_once()

    assert "deleted: 1 task, 1 output file\n" == command("prune").stdout

    assert [3, 2] == ids(command("list", "--json"))
    assert not old_file.exists()
    assert new_file.exists()


def test_prune_removes_no_output_that_a_process_still_has_locked(command: Command) -> None:
    command("submit", "--", "true")
    _, file = command.run_once(ended_at=1, output=b"output")
    with file.open("ab") as survivors:
        fcntl.flock(survivors, fcntl.LOCK_EX)

        assert "deleted: 1 task, 0 output files\n" == command("prune").stdout

    assert b"output" == file.read_bytes()
    assert [] == ids(command("list", "--json"))


def test_prune_removes_no_output_before_its_rows_are_gone_for_certain(command: Command) -> None:
    command("submit", "--", "true")
    _, file = command.run_once(ended_at=1, output=b"output")
    with command.client() as client:
        with file_size_limit(0), pytest.raises(CommitUnknown):
            client.prune(older_than_ms=0)

        assert b"output" == file.read_bytes()
        assert (str(file),) == client.prune(older_than_ms=0).output_paths
    assert not file.exists()


def test_prune_with_a_retention_of_never_requires_an_age(command: Command) -> None:
    command.configure('[output]\nretention = "never"')

    message = command("prune", exits=2).stderr
    assert '[output] retention is "never": give an age, e.g. --older-than 30d' in message
    assert "deleted: 0 tasks" in command("prune", "--older-than", "1h").stdout


def test_prune_may_be_tried_and_bound_to_states(command: Command) -> None:
    for _ in range(3):
        command("submit", "--", "true")
    command.run_once(ended_at=1)
    command("cancel", 2)

    refused = command("prune", "--older-than", "0s", exits=2).stderr
    tried = command("prune", "--older-than", "0s", "--dry-run").stdout
    tried_json = command("prune", "--dry-run", "--state", "cancelled", "--json").json
    kept = ids(command("list", "--json"))
    gone = command("prune", "--older-than", "0s", "--state", "cancelled").stdout

    assert "--older-than 0s alone means everything; name a state or a queue too" in refused
    assert "would delete: 2 tasks, with their runs and output files\n" == tried
    assert {"dry_run": True, "tasks": 0} == tried_json
    assert [3, 2, 1] == kept
    assert "deleted: 1 task, 0 output files\n" == gone
    assert [3, 1] == ids(command("list", "--json"))


def test_prune_leaves_files_of_other_nodes_alone(command: Command, tmp_path: Path) -> None:
    command("submit", "--", "true")
    _, file = command.run_once(ended_at=1)
    other_node = tmp_path / "other.toml"
    other_node.write_text(
        f'[node]\nstate_dir = "{tmp_path}/other"\n'
        f'[store]\nurl = "sqlite://{command.state_dir}/tasks.db"'
    )

    pruned = command("prune", "--config", other_node, "--json").json

    assert {"tasks": 1, "output_files": 0} == pruned
    assert file.exists()


def test_an_id_that_is_named_twice_is_meant_once(command: Command) -> None:
    command("submit", "--", "true")
    command("cancel", 1)

    assert "1 ready\n" == command("retry", 1, 1).stdout
