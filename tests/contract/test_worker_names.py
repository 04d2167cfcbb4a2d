"""The worker's half stands alone, so it repeats names of the wire: they cannot drift apart."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import worker_stub
from dispatcher import exit_codes, wire, worker_api
from dispatcher.daemon.worker_channel import NOT_ALLOWED
from dispatcher.executor_api import worker_environment
from tests.contract.helpers import OneByOne
from tests.eventually import eventually
from worker_stub import Refused, Worker, names
from worker_stub.__main__ import main
from worker_stub.daemon_socket import DaemonSocket

ENVIRONMENT = {
    names.TASK_ID: "7",
    names.CLAIM_LOCK: "lock",
    names.SOCKET: "/nowhere",
    names.LEASE_TTL: "60",
    names.HEARTBEAT_INTERVAL: "20",
}


class Answering:
    """The daemon's half of a channel: it reads as the daemon does, and gives the test's answers."""

    def __init__(self, **answer: object) -> None:
        self.answer = {"ok": True, "lease_expires_in": 60.0, **answer}
        self.received: list[worker_api.AnyRequest] = []

    def request(self, request: dict[str, Any], *, within: float) -> dict[str, Any]:
        self.received.append(worker_api.decode_request(wire.encode(request)))
        return self.answer

    def close(self) -> None: ...


class Picky:
    """A channel to a daemon that understands no notes, or that cannot send them."""

    def __init__(self, *, sends: bool) -> None:
        self._sends = sends
        self.requests: list[dict[str, Any]] = []

    def request(self, request: dict[str, Any], *, within: float) -> dict[str, Any]:
        self.requests.append(request)
        if "note" in request:
            if not self._sends:
                raise ValueError("the request cannot be JSON")
            return {"ok": False, "error": "invalid", "message": "what?"}
        return {"ok": True, "lease_expires_in": 60.0}

    def assert_received(self, count: int) -> None:
        assert count <= len(self.requests)

    def close(self) -> None: ...


def worker(channel: Answering) -> Worker:
    worker = Worker(beats="calls", environ=dict(ENVIRONMENT))
    worker._socket = channel  # type: ignore[assignment]
    return worker


def test_the_daemon_parses_every_request_that_a_worker_can_send() -> None:
    channel = Answering()

    worker(channel).heartbeat(0.5, "half of it")
    worker(channel).succeed({"rows": 3})
    worker(channel).fail("no", retry=False)
    worker(channel).defer(60)
    worker(channel).hold("a password")

    mine = {"task_id": 7, "lock": "lock"}
    assert [
        worker_api.Heartbeat(progress=0.5, note="half of it", **mine),
        worker_api.Succeed(result=msgspec.Raw(b'{"rows":3}'), **mine),
        worker_api.Fail(reason="no", retry=False, **mine),
        worker_api.Defer(delay=60, **mine),
        worker_api.Hold(reason="a password", **mine),
    ] == channel.received
    assert set(worker_api.AnyRequest.__args__) == {type(request) for request in channel.received}


@pytest.mark.parametrize("error", worker_api.WorkerError)
def test_every_refusal_is_either_lost_or_not_and_one_means_try_again(
    error: worker_api.WorkerError,
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
        "not_taken": False,
        "invalid": False,
        "not_allowed": True,
    }[error] == found


def test_the_environment_holds_what_the_worker_looks_for(store: OneByOne) -> None:
    environment = worker_environment(store.claimed(), "/socket")

    assert set() == {*ENVIRONMENT, names.FENCE} - environment.keys()


@pytest.mark.parametrize("progress", [1.0000000002, -0.1, float("nan")])
def test_a_progress_that_the_daemon_would_refuse_is_refused_in_the_worker(progress: float) -> None:
    channel = Answering()
    mistaken = worker(channel)

    for report in (mistaken.progress, mistaken.heartbeat):
        with pytest.raises(ValueError, match="from 0 to 1"):
            report(progress)
    with pytest.raises(ValueError, match="4096"):
        mistaken.progress(note="x" * 4097)

    mistaken.heartbeat()
    assert [worker_api.Heartbeat(task_id=7, lock="lock")] == channel.received


@pytest.mark.parametrize("sends", [True, False])
def test_a_beating_thread_with_an_invalid_note_goes_on_without_it(sends: bool) -> None:
    """Only a claim that is gone ends a worker; a note that nobody can read does not."""
    channel = Picky(sends=sends)
    refusals: list[Refused] = []
    beating = Worker(beats="thread", environ=dict(ENVIRONMENT), on_refused=refusals.append)
    beating._socket = channel  # type: ignore[assignment]
    beating.progress(note="\ud800")

    with beating:
        eventually(lambda: channel.assert_received(2))

    assert [] == refusals
    assert [True, False] == ["note" in request for request in channel.requests]


def test_a_refusal_that_closed_the_connection_before_a_request_was_sent_is_read_and_final(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "socket")
    refusals: list[Refused] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        channel = Closing(path, listener)
        beating = Worker(beats="thread", environ=dict(ENVIRONMENT), on_refused=refusals.append)
        beating._socket = channel

        with beating:
            eventually(lambda: _is_refused(refusals))


class Closing(DaemonSocket):
    """A channel whose daemon refuses and closes each connection at once."""

    def __init__(self, path: str, listener: socket.socket) -> None:
        super().__init__(path)
        self._listener = listener

    def _connected(self, within: float) -> socket.socket:
        connection = super()._connected(within)
        refused, _ = self._listener.accept()
        with refused:
            refused.sendall(NOT_ALLOWED)
        return connection


def _is_refused(refusals: list[Refused]) -> None:
    assert [("not_allowed", True)] == [(one.error, one.lost) for one in refusals]


@pytest.mark.parametrize(("program", "code"), [("/nowhere/program", 127), ("/", 126)])
def test_a_command_that_cannot_be_run_is_reported_and_exits_as_in_a_shell(
    program: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    assert code == main(["run", "--", program])

    assert f"worker_stub: {program}: " in capsys.readouterr().err


def test_numbers_are_the_same() -> None:
    assert (exit_codes.ExitCode.LEASE_LOST, worker_api.MAX_LINE) == (
        names.LEASE_LOST,
        names.MAX_LINE,
    )
    assert worker_api.MAX_TEXT == names.MAX_TEXT


@pytest.mark.parametrize("task_id", [2**63, -(2**63) - 1, 2**70])
def test_an_id_that_no_task_can_have_makes_no_sense(task_id: int) -> None:
    """It must not reach the store, whose "try again" would never end."""
    line = wire.encode({"op": "heartbeat", "lock": "x", "task_id": 7}).replace(
        b"7", b"%d" % task_id
    )

    with pytest.raises(msgspec.ValidationError, match="task_id"):
        worker_api.decode_request(line)


def test_it_needs_nothing_but_the_standard_library() -> None:
    """No site-packages, not even our own: only the directory that it lies in."""
    where = Path(worker_stub.__file__).parents[1]
    script = f"import sys; sys.path.insert(0, {str(where)!r}); import worker_stub.__main__"

    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)
