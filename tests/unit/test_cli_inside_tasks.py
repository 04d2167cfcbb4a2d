"""`heartbeat`, `complete` and `fail` inside a task: over the socket of the daemon that runs it."""

import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command


class FakeDaemon:
    """Gives one answer to every request, and keeps the requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: Mapping[str, object] | None = {"ok": True}
        """None: it closes the connection."""
        self.requests: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    return
                self.requests.append(json.loads(line))
                if self.answer is not None:
                    connection.sendall(json.dumps(self.answer).encode() + b"\n")

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._listener.close()


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    directory = tempfile.mkdtemp(prefix="speak-")  # pytest's are too long for a socket
    daemon = FakeDaemon(Path(directory, "worker.sock"))
    yield daemon
    daemon.close()
    shutil.rmtree(directory)


@pytest.fixture
def command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    daemon: FakeDaemon,
) -> Command:
    """Return the command line of a task's worker, whose lock is also that of a local claim."""
    command = Command(tmp_path, capsys, monkeypatch)
    command("submit", "--", "true")
    lock = command("claim", "--json").json["lock"]
    for name, value in {
        "RUN": "uid",
        "RUN_CONFIG": str(command.config_file),
        "SOCKET": str(daemon.path),
        "TASK_ID": "1",
        "CLAIM_LOCK": lock,
        "LEASE_TTL": "60",
    }.items():
        monkeypatch.setenv(f"DISPATCHER_{name}", value)
    return command


def test_reports_from_inside_a_task_go_to_its_daemon_and_need_no_file(
    command: Command, daemon: FakeDaemon
) -> None:
    command.config_file.unlink()

    daemon.answer = {"ok": True, "lease_expires_in": 60.0}
    renewed = command("heartbeat", "--progress", "0.5", "--note", "half")
    daemon.answer = {"ok": True}
    completed = command("complete", "--result", '{"rows": 3}')
    failed = command("fail", "--reason", "why", "--no-retry", "--json")

    assert renewed.stdout.startswith("1 renewed until 20")
    assert ("", "1 accepted\n", {"ok": True}) == (renewed.stderr, completed.stdout, failed.json)
    own = {"task_id": 1, "lock": daemon.requests[0]["lock"]}
    assert [
        {"op": "heartbeat", "progress": 0.5, "note": "half", **own},
        {"op": "succeed", "result": {"rows": 3}, **own},
        {"op": "fail", "reason": "why", "retry": False, **own},
    ] == daemon.requests


def test_a_lease_that_ends_early_is_reported_as_always(
    command: Command, daemon: FakeDaemon
) -> None:
    daemon.answer = {"ok": True, "lease_expires_in": 59.999}

    assert "no heartbeat renews the lease beyond" in command("heartbeat").stderr


@pytest.mark.parametrize(
    ("error", "exits"),
    [
        ("not_owner", 79),
        ("superseded", 79),
        ("unknown_task", 79),
        ("already_declared", 1),
        ("store_unavailable", 74),
    ],
)
def test_a_refusal_of_the_daemon_has_the_exit_code_of_one_of_the_store(
    command: Command, daemon: FakeDaemon, error: str, exits: int
) -> None:
    daemon.answer = {"ok": False, "error": error, "message": "m", "state": "running", "attempt": 2}

    assert error in command("heartbeat", exits=exits).stderr or exits == 74


@pytest.mark.parametrize(
    "answer", [None, {"ok": False, "error": "not_allowed", "message": "m"}, {}], ids=str
)
def test_the_store_answers_if_the_daemon_does_not(
    command: Command, daemon: FakeDaemon, answer: Mapping[str, object] | None
) -> None:
    daemon.answer = answer

    command("complete")

    assert 1 == len(daemon.requests)
    assert "succeeded" == command("show", 1, "--json").json["state"]


@pytest.mark.parametrize("how", ["option", "variable", "by hand"])
def test_another_file_or_a_claim_by_hand_means_no_daemon_of_this_task(
    command: Command, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(command.config_file.read_text())
    options: tuple[object, ...] = ()
    match how:
        case "option":
            options = ("--config", other)
        case "variable":
            monkeypatch.setenv("DISPATCHER_CONFIG", str(other))
        case _:
            monkeypatch.delenv("DISPATCHER_RUN")

    command("complete", *options)

    assert [] == daemon.requests
    assert "succeeded" == command("show", 1, "--json").json["state"]
