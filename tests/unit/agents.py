"""Shared by the tests of agents: recorded streams, fakes of agents and of the daemon."""

import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worker_stub import names
from worker_stub.__main__ import main

ROOT = Path(__file__).parents[2]
STREAMS = ROOT / "tests" / "streams"

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
class Tools:
    "The task's own, over a server that is started as agents start it."
    def __init__(self):
        import subprocess
        self.server = subprocess.Popen([sys.executable, "-m", "worker_stub", "mcp"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd={str(ROOT)!r})
        self.number = 0
        self.ask("initialize", protocolVersion="2025-06-18")
    def ask(self, method, **params):
        self.number += 1
        message = {{"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}}
        self.server.stdin.write(json.dumps(message).encode() + b"\\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())
    def call(self, name, **arguments):
        result = self.ask("tools/call", name=name, arguments=arguments)["result"]
        return result.get("structuredContent") or result["content"][0]["text"]
"""


def fake_agent(directory: Path, kind: str, body: str) -> str:
    """Write a program with the name of a kind that does what the body says; return its path."""
    program = directory / kind
    shebang = f"#!{sys.executable} -IS\n"
    program.write_text(shebang + _PRELUDE + textwrap.dedent(body), "utf-8")
    program.chmod(0o755)
    return str(program)


#: Runs a fake agent: its kind, what it does, options of the adapter; returns the exit code.
Run = Callable[..., int]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """A claim in the environment, and a daemon that accepts everything."""
    daemon = FakeDaemon()
    monkeypatch.setattr("worker_stub.worker.DaemonSocket", lambda _: daemon)
    for name, value in {
        names.TASK_ID: "7",
        names.CLAIM_LOCK: "secret",
        names.SOCKET: "/nowhere",
        names.LEASE_TTL: "60",
        names.HEARTBEAT_INTERVAL: "20",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(names.AGENT_SOCKET, "")  # so that it is put back
    before = signal.getsignal(signal.SIGTERM)
    yield daemon
    signal.signal(signal.SIGTERM, before)
    signal.set_wakeup_fd(-1)


@pytest.fixture
def agent(daemon: FakeDaemon, tmp_path: Path) -> Run:
    def started(kind: str, body: str, *options: str, words: tuple[str, ...] = ()) -> int:
        program = fake_agent(tmp_path, kind, body)
        return main(["agent", "--kind", kind, *options, "--", program, *words])

    return started
