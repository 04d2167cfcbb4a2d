"""The worker's half stands alone, so it repeats names of the wire: they cannot drift apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import worker_stub
from dispatcher import wire
from dispatcher.processes import worker_environment
from tests.contract.helpers import OneByOne
from worker_stub import Refused, Worker, names

ENVIRONMENT = {
    names.TASK_ID: "7",
    names.CLAIM_LOCK: "lock",
    names.SOCKET: "/nowhere",
    names.LEASE_TTL: "60",
    names.HEARTBEAT_INTERVAL: "20",
}


class Answering:
    """The daemon's half of a channel: it reads as the daemon reads, and answers as it is told."""

    def __init__(self, **answer: object) -> None:
        self.answer = {"ok": True, "lease_expires_in": 60.0, **answer}
        self.heard: list[wire.AnyWorkerRequest] = []

    def ask(self, request: dict[str, Any], *, within: float) -> dict[str, Any]:
        self.heard.append(wire.decode_worker_request(wire.encode(request)))
        return self.answer

    def close(self) -> None: ...


def worker(channel: Answering) -> Worker:
    worker = Worker(beats="calls", environ=dict(ENVIRONMENT))
    worker._channel = channel  # type: ignore[assignment]
    return worker


def test_whatever_a_worker_can_say_the_daemon_understands() -> None:
    channel = Answering()

    worker(channel).heartbeat(0.5, "half of it")
    worker(channel).succeed({"rows": 3})
    worker(channel).fail("no", retry=False)
    worker(channel).defer(60)
    worker(channel).hold("a password")

    mine = {"task_id": 7, "lock": "lock"}
    assert [
        wire.Heartbeat(progress=0.5, note="half of it", **mine),
        wire.Succeed(result=msgspec.Raw(b'{"rows":3}'), **mine),
        wire.Fail(reason="no", retry=False, **mine),
        wire.Defer(delay=60, **mine),
        wire.Hold(reason="a password", **mine),
    ] == channel.heard
    assert set(wire.AnyWorkerRequest.__args__) == {type(heard) for heard in channel.heard}


@pytest.mark.parametrize("error", wire.WorkerError)
def test_every_refusal_is_either_lost_or_not_and_one_means_try_again(
    error: wire.WorkerError,
) -> None:
    refusing = worker(Answering(ok=False, error=error.value, message="because"))

    with pytest.raises(Exception, match="because") as raised:
        refusing.heartbeat()

    answer = raised.value
    found = answer.lost if isinstance(answer, Refused) else "again"
    assert {
        "not_owner": True,
        "superseded": True,
        "not_running": True,
        "unknown_task": True,
        "store_unavailable": "again",
        "already_declared": False,
        "invalid": False,
    }[error] == found


def test_the_environment_holds_what_the_worker_looks_for(store: OneByOne) -> None:
    environment = worker_environment(store.claimed(), "/socket")

    assert set() == {*ENVIRONMENT, names.FENCE} - environment.keys()


def test_numbers_are_the_same() -> None:
    assert (wire.ExitCode.LEASE_LOST, wire.MAX_WORKER_LINE) == (names.LEASE_LOST, names.MAX_LINE)


def test_it_needs_nothing_but_the_standard_library() -> None:
    """No site-packages, not even our own: only the directory that it lies in."""
    where = Path(worker_stub.__file__).parents[1]
    script = f"import sys; sys.path.insert(0, {str(where)!r}); import worker_stub.__main__"

    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)
