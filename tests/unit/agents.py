"""Shared by the tests of agents: recorded streams, fakes of agents and of the daemon."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STREAMS = Path(__file__).parents[1] / "streams"

#: Seconds since 1970: 2026-11-28T00:00:00Z.
NOW = 1_795_824_000.0


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process's zone be UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class FakeDaemon:
    """The daemon's half of a channel: it keeps what it receives, and accepts it."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.seen: Callable[[dict[str, Any]], object] = lambda _: None
        """Called for each request before its answer; what it raises is raised."""

    def request(self, request: dict[str, Any], *, within: float) -> dict[str, Any]:
        self.seen(request)
        self.requests.append(request)
        return {"ok": True, "lease_expires_in": 60.0}

    def close(self) -> None: ...

    @property
    def beats(self) -> list[dict[str, Any]]:
        return [one for one in self.requests if one["op"] == "heartbeat"]

    @property
    def notes(self) -> list[str]:
        return [one["note"] for one in self.beats if "note" in one]

    @property
    def checkpoint(self) -> Any:
        """The last one reported."""
        return next((c for one in reversed(self.beats) if (c := one.get("checkpoint"))), None)

    @property
    def declared(self) -> dict[str, Any]:
        """The one declaration, without what every request has."""
        (found,) = [one for one in self.requests if one["op"] != "heartbeat"]
        return {name: value for name, value in found.items() if name not in {"lock", "task_id"}}


#: What the body of a fake agent can use.
_PRELUDE = f"""
import json, os, sys, time
out, exit = sys.stdout.buffer, sys.exit
def write(data):
    out.write(data)
    out.flush()
def say(stream, lines=None):
    "Write a recorded stream, or some of its lines."
    path = {str(STREAMS)!r} + "/" + os.path.basename(sys.argv[0]) + "/" + stream + ".jsonl"
    write(b"".join(open(path, "rb").read().splitlines(keepends=True)[:lines]))
def hang():
    while True:
        time.sleep(60)
"""


def fake_agent(directory: Path, kind: str, body: str) -> str:
    """Write a program with the name of a kind that does what the body says; return its path."""
    program = directory / kind
    shebang = f"#!{sys.executable} -IS\n"
    program.write_text(shebang + _PRELUDE + textwrap.dedent(body), "utf-8")
    program.chmod(0o755)
    return str(program)
