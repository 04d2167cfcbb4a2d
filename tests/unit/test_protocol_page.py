"""The page for authors of workers names all that they may meet, and the limits that hold."""

import re
from pathlib import Path
from typing import get_args

import msgspec

from dispatcher import words, worker_api
from dispatcher.daemon import channel, peer
from dispatcher.executor_api import worker_environment
from dispatcher.exit_codes import ExitCode
from dispatcher.worker_api import WorkerError
from worker_stub import worker

PAGE = (Path(__file__).parents[2] / "docs" / "workers.md").read_text("utf-8")


def test_every_request_is_there_with_its_fields() -> None:
    for kind in get_args(worker_api.AnyRequest):
        (row,) = re.findall(rf"^\| `{kind.__struct_config__.tag}` \|.*$", PAGE, re.MULTILINE)
        own = {field.name for field in msgspec.structs.fields(kind)} - {"task_id", "lock"}
        assert not [name for name in own if f"`{name}`" not in row], row


def test_every_answer_is_there_with_what_to_do() -> None:
    for error in WorkerError:
        (row,) = re.findall(rf"^\| `{error}` \|.*$", PAGE, re.MULTILINE)
        assert ("exit 79" in row) == ("exit 79" in words.REMEDIES.get(error, "")), row


def test_every_variable_is_there() -> None:
    source = Path(worker_environment.__code__.co_filename).read_text("utf-8")
    named = {*re.findall(r'"(DISPATCHER_[A-Z_]+)"', source), worker_api.MARKER}

    assert len(named) >= 11
    assert not [name for name in named if f"`{name}`" not in PAGE]
    inherited = [name for name in worker_api.ENVIRONMENT_ALLOWED if f"`{name}`" not in PAGE]
    assert not inherited


def test_the_limits_are_those_that_hold() -> None:
    for limit in (
        f"at most {worker_api.MAX_LINE // 1024} KiB with its end",
        f"at most {worker_api.MAX_RESULT // 1024} KiB |",
        f"at most {worker_api.MAX_TEXT} characters",
        f"has {peer.FIRST_LINE:g} s to its first line",
        f"not read for {peer.UNREAD:g} s",
        f"{channel.CONNECTIONS} connections",
        f"at most {worker.ANSWER:g} s; then",
        f"after {worker.RETRY[0]} s, doubled up to {worker.RETRY[1]:g} s",
    ):
        assert limit in " ".join(PAGE.split()), limit
    for code in (ExitCode.OK, ExitCode.TEMPORARY, ExitCode.CONFIG, ExitCode.LEASE_LOST):
        assert f"\n| {code.value} | " in PAGE
