"""The worker's half without a daemon."""

import pickle
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, closing, contextmanager
from pathlib import Path

import pytest

from tests.eventually import let_pass
from worker_stub import Refused
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
