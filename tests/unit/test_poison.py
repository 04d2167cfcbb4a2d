"""A value that a message cannot carry is found before it is sent, by the sender."""

import json
import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from dispatcher import wire
from dispatcher.config.settings import NodeSection
from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.executor_connection import why_unreadable
from dispatcher.executor.log import Log
from dispatcher.executor.notice_sockets import MOST_BYTES
from dispatcher.executor.output.files import TAIL_BYTES
from dispatcher.executor_api import Disconnected
from dispatcher.task_checks import MAX_COMMAND, MAX_ENVIRONMENT, MAX_PATH, MAX_PAYLOAD, checked
from dispatcher.times import Instant
from tests.unit.executor.world import World
from tests.unit.test_client import new_task
from tests.unit.test_executor_client import UID, Executor, at, client, connect, executor

__all__ = ["client", "executor"]


def start(**facts: Any) -> wire.Start:
    usual = {"uid": UID, "epoch": 1, "command": ("true",), "env": {}, "output_path": "/x"}
    return wire.Start(**{**usual, **facts})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kill_signal": "INT"}, "kill_signal: expected an integer, got a text in quotes"),
        ({"kill_signal": 2**70}, "kill_signal: expected an integer <= 64"),
        ({"command": ("x", None)}, "command: item 2: expected a text in quotes, got null"),
        ({"env": {"A": 1}}, "env: expected a text in quotes, got an integer"),
        ({"env": {"A": "\ud800"}}, "is not UTF-8"),
        ({"kill_grace": math.nan}, "kill_grace: expected a number, got null"),
        ({"deadlines": {"absence": math.inf}}, "deadlines: expected a number, got null"),
        ({"kill_signal": 0}, "kill_signal: expected an integer >= 1"),
        ({"uid": "../../etc"}, "uid: "),
        ({"env": {"A": "\1" * 800_000}}, "bytes as JSON, more than 4194304; pass what is long in"),
    ],
)
def test_a_start_that_no_executor_could_read_fails_and_the_connection_stays(
    client: ExecutorClient,
    executor: Executor,
    facts: dict[str, Any],
    message: str,
) -> None:
    connect(client, executor)

    client.send(start(**facts))
    assert at(0) == client.run_due(at=at(0))  # its failure is to be reported at once
    client.send(start(uid=wire.RunUid("next")))
    client.flush(at=at(0))
    (failed,) = client.receive(at=at(0))

    assert isinstance(failed, wire.StartFailed)
    assert (wire.Fault.TASK, start(**facts).uid) == (failed.fault, failed.uid)
    assert message in failed.error
    assert failed.error.startswith("cannot be started: ")
    (line,) = executor.received().splitlines()
    assert start(uid=wire.RunUid("next")) == wire.decode_to_executor(line)


def test_a_task_of_the_largest_values_fits_one_line() -> None:
    task = checked(
        new_task(
            command=("x", "\1" * (MAX_COMMAND - 3)),
            payload='"' + '\\"' * ((MAX_PAYLOAD - 2) // 2) + '"',
            env={f"A{n}": "\1" * ((MAX_ENVIRONMENT - 80) // 48) for n in range(8)},
            cwd="/" + '"' * (MAX_PATH - 1),
        )
    )
    paths = {"output_path": "/" + "\1" * MAX_PATH, "previous_output_path": "/" + "\1" * MAX_PATH}

    largest = start(
        command=task.command, payload=task.payload, env=dict(task.env), cwd=task.cwd, **paths
    )

    assert why_unreadable(largest) is None


def test_deadlines_of_as_many_runs_as_a_node_may_have_fit_one_line() -> None:
    properties = msgspec.json.schema(NodeSection)["$defs"]["NodeSection"]["properties"]
    most = properties["slots"]["anyOf"][0]["maximum"]
    names = [str(name) for name in (wire.EndedBy.ABSENCE, wire.EndedBy.RUN_TIMEOUT)]

    renew = wire.Renew(
        deadlines={
            wire.RunUid(f"{n:032x}"): dict.fromkeys(names, 123456789.123456) for n in range(most)
        }
    )

    assert len(wire.encode(renew)) <= wire.MAX_LINE


def test_the_largest_report_of_one_run_fits_one_line() -> None:
    names = ("\1" * 64,) * 20
    exit_ = wire.Exit(at=1.0, leftovers=names, left_alone=names, tail="\1" * TAIL_BYTES)
    largest = (
        wire.Exited(uid=UID, exit=exit_),
        wire.Notice(uid=UID, serial=1, note="\1" * MOST_BYTES),
        wire.StartFailed(uid=UID, fault=wire.Fault.TASK, error="\1" * 2 * MAX_COMMAND),
    )

    for message in largest:
        line = wire.encode(message)
        assert len(line) <= wire.MAX_LINE
        assert message == wire.decode_from_executor(line)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"stray","pid":1,"name":"\xff","candidates":[]}\n',
        b'{"type":"pong","sequence":1,"more":' + b"[" * 100_000 + b"\n",
        b'{"type":"exited","uid":"a","exit":{"at":1.0,"exit_code":%d}}\n' % 2**70,
        b'{"type":"started","uid":"a","pid":0,"start_ticks":1,"at":1.0}\n',
        b"x" * (wire.MAX_LINE + 1),
    ],
    ids=["not UTF-8", "nested deep", "a huge number", "no pid", "no end"],
)
def test_an_invalid_message_of_an_executor_costs_the_connection_and_not_the_daemon(
    client: ExecutorClient,
    executor: Executor,
    raw: bytes,
) -> None:
    connect(client, executor)
    executor.ends[-1].settimeout(0)
    events: list[object] = []

    while raw and not events:
        with suppress(BlockingIOError):
            raw = raw[executor.ends[-1].send(raw) :]
        events += client.receive(at=at(1))
    events += client.receive(at=at(1))

    (gone,) = events
    assert isinstance(gone, Disconnected)
    assert "not understood" in gone.reason or "a line of more than" in gone.reason
    assert Instant(2.0) == client.run_due(at=at(1))  # and it is not tried again at once


def test_a_name_that_is_not_utf8_ends_no_executor(tmp_path: Any) -> None:
    """A directory of the PATH may be called anything."""
    world = World(tmp_path)
    world.report.start_failed(start(), wire.Fault.TASK, "not executable: /b\udcff/x")

    failed = world.last(wire.StartFailed)
    assert "not executable: /b\\udcff/x" == failed.error
    assert wire.encode(failed)


def test_a_line_of_the_log_is_written_whatever_a_name_holds(tmp_path: Any) -> None:
    with (tmp_path / "log").open("wb") as file:
        Log(file.fileno(), environ={})("executor.refused", error="cannot listen in /r\udcff")

    assert "cannot listen in /r\\udcff" == json.loads((tmp_path / "log").read_text())["error"]
