"""The worker's half without a daemon."""

import json
import pickle
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, closing, contextmanager
from pathlib import Path

import pytest

from tests.eventually import let_pass
from worker_stub import Refused, Worker, names
from worker_stub.daemon_socket import LOOKS, MISSING, DaemonSocket, Unreachable


def test_a_refusal_passes_any_context_manager_and_keeps_its_message() -> None:
    @contextmanager
    def scope() -> Iterator[None]:
        yield

    with pytest.raises(Refused) as caught, scope():
        raise Refused("superseded", "stop")

    refusal = caught.value
    assert ("superseded", "stop", True) == (refusal.error, refusal.message, refusal.lost)
    assert "superseded: stop" == str(refusal)
    assert "superseded: stop" == str(pickle.loads(pickle.dumps(refusal)))


@pytest.mark.parametrize("result", [float("inf"), [float("nan")]], ids=str)
def test_a_value_that_json_cannot_express_is_refused_before_it_is_sent(result: object) -> None:
    with pytest.raises(ValueError, match="the request cannot be JSON"):
        DaemonSocket("/nowhere").request({"op": "succeed", "result": result}, within=1.0)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    environ = {
        names.TASK_ID: "1",
        names.CLAIM_LOCK: "secret",
        names.LEASE_TTL: "60",
        names.HEARTBEAT_INTERVAL: "20",
        names.SOCKET: str(tmp_path / "sock"),
    }
    with Worker(beats="calls", environ=environ) as worker:
        yield worker


@pytest.mark.parametrize(
    ("report", "wrong"),
    [
        (lambda it: it.checkpoint({"loss": float("nan")}), "checkpoint cannot be JSON"),
        (lambda it: it.checkpoint({"at": Path("x")}), "checkpoint cannot be JSON"),
        (lambda it: it.checkpoint("\ud83d"), "checkpoint cannot be JSON"),
        (lambda it: it.checkpoint("x" * names.MAX_RESULT), "32770 bytes are more than 32768"),
        (lambda it: it.progress(note="x" * 4097), "4097 characters are more than 4096"),
        (lambda it: it.progress(float("nan")), "from 0 to 1"),
    ],
)
def test_a_report_that_cannot_be_sent_is_refused_where_it_is_made(
    worker: Worker, report: Callable[[Worker], None], wrong: str
) -> None:
    """Not in the thread of the heartbeats: the worker would be lost."""
    with pytest.raises(ValueError, match=wrong):
        report(worker)

    assert {} == beaten(worker)


def test_the_longest_report_is_one_line_and_is_as_it_was_made(worker: Worker) -> None:
    note, value = "\U0001f600" * names.MAX_TEXT, {"text": "\U0001f600" * 8_000, "step": [3]}
    worker.progress(0.5, note)
    worker.checkpoint(value)

    value["more"] = "x" * names.MAX_LINE

    kept = {"text": value["text"], "step": [3]}
    assert {"progress": 0.5, "note": note, "checkpoint": kept} == beaten(worker)


def test_a_note_that_cannot_be_sent_is_left_out(worker: Worker) -> None:
    worker.progress(note="\ud83d")
    with pytest.raises(ValueError, match="the request cannot be JSON"):
        worker.heartbeat()

    assert {} == beaten(worker)


def beaten(worker: Worker) -> dict[str, object]:
    """Return what a worker's next heartbeat reports; a line that nobody may read is an error."""
    path = worker._socket._path
    with ThreadPoolExecutor(1) as pool, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        beat = pool.submit(worker.heartbeat)
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            line = lines.readline()
            connection.sendall(b'{"ok": true, "lease_expires_in": 60}\n')
        assert 60.0 == beat.result()
    assert len(line) <= names.MAX_LINE
    sent: dict[str, object] = json.loads(line)
    common = {"op", "lock", "task_id"}
    return {name: value for name, value in sent.items() if name not in common}


def test_a_socket_that_is_missing_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """Or a worker's shell script would end it, as no connection waits without a socket."""
    with (
        chdir(tmp_path),
        ThreadPoolExecutor(1) as pool,
        socket.socket(socket.AF_UNIX) as listener,
        closing(DaemonSocket("sock")) as channel,
    ):
        answer = pool.submit(channel.request, {"op": "heartbeat"}, within=30.0)
        let_pass(3 * LOOKS)  # it has looked at least once by then, or is not slower for it
        assert not answer.done()
        listener.bind("sock")
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b'{"ok": true}\n')

            assert {"ok": True} == answer.result()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_socket_that_is_missing_for_long_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `beats="calls"` each call would wait as long as all is down."""
    clock = Clock()
    monkeypatch.setattr("worker_stub.daemon_socket.time", clock)
    channel = DaemonSocket(str(tmp_path / "sock"))
    took = []
    for _ in range(3):
        began = clock.now
        with pytest.raises(Unreachable, match="No such file"):
            channel.request({"op": "heartbeat"}, within=30.0)
        took.append(clock.now - began)

    assert MISSING == pytest.approx(took[0], abs=2 * LOOKS)
    assert [0.0, 0.0] == took[1:]
