from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dispatcher.errors import InvalidTask
from dispatcher.model import Liveness, NewTask
from tests.command import Command


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    return Command(tmp_path, capsys, monkeypatch)


def new_task(**fields: Any) -> NewTask:
    return NewTask(**{"command": ("true",), "max_attempts": 1, "lease_ttl_ms": 1_000, **fields})


def test_a_client_takes_keywords_or_a_task(command: Command) -> None:
    with command.client() as client:
        first = client.submit(command=["true"], queue="q", liveness=Liveness.WORKER)
        second = client.submit(new_task(queue="r"))
        tasks = client.tasks()

    assert [second.task_id, first.task_id] == [task.id for task in tasks]
    assert [("r", 1_000), ("q", 900_000)] == [(task.queue, task.lease_ttl_ms) for task in tasks]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"command": ()}, "command: is empty"),
        ({"command": ("x", 5)}, "command: must be text, not int"),
        ({"max_attempts": True}, "max_attempts: must be a whole number, not True"),
        ({"notify": "yes"}, "notify: must be true or false, not 'yes'"),
        ({"delay_ms": -1}, "delay: must be from 0ms"),
        ({"lease_ttl_ms": 0}, "lease_ttl: must be from 1ms"),
        ({"cwd": "here"}, "cwd: 'here' is not absolute"),
        ({"labels": {"a": "x" * 256}}, "label a: 256 bytes are more than 255"),
    ],
)
def test_a_client_refuses_what_no_task_may_have_and_submits_none_of_many(
    command: Command, fields: Mapping[str, Any], told: str
) -> None:
    with command.client() as client:
        with pytest.raises(InvalidTask, match=told):
            client.submit_many([new_task(), new_task(**fields)])
        assert [] == client.tasks()


def test_a_command_is_a_list_and_no_string(command: Command) -> None:
    with command.client() as client, pytest.raises(InvalidTask, match="must be a list"):
        client.submit(command="echo hello")


def test_a_failure_amid_many_submits_none(command: Command) -> None:
    with command.client() as client:
        store = client._store
        accepted = store.submit

        def submit_two(task: NewTask, *, now: Any) -> Any:
            if task.queue == "third":
                raise RuntimeError("power cut")
            return accepted(task, now=now)

        store.submit = submit_two  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="power cut"):
            client.submit_many([new_task(), new_task(), new_task(queue="third")])
        assert [] == client.tasks()
