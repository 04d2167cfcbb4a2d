"""The command line in this process: fast, with its own state directory and configuration."""

import io
import sys
from pathlib import Path

import pytest

from dispatcher.cli import app
from dispatcher.client import Client
from dispatcher.config.config import load
from dispatcher.execution import Settlement, StartedRun
from dispatcher.model import Outcome, TaskState
from dispatcher.times import StoreTime
from tests.e2e.world import Result


class Command:
    """Called with arguments, it runs them and expects an exit code."""

    def __init__(
        self, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.state_dir = directory / "state"
        self.config_file = directory / "dispatcher.toml"
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("DISPATCHER_CONFIG", str(self.config_file))
        # Not below the state directory: a path of pytest is too long for a socket.
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
        monkeypatch.chdir(directory)
        self.configure("")

    def configure(self, more: str) -> None:
        self.config_file.write_text(f'[node]\nstate_dir = "{self.state_dir}"\n{more}')

    def __call__(self, *arguments: object, exits: int = 0, stdin: bytes = b"") -> Result:
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = app.run([str(argument) for argument in arguments])
        result = Result(code, *self._capsys.readouterr())
        assert exits == result.exit_code, result
        return result

    def client(self) -> Client:
        return Client(load(str(self.config_file)))

    def run_once(
        self,
        *,
        outcome: Outcome = Outcome.FAILED,
        state: TaskState = TaskState.FAILED,
        output: bytes | None = b"",
        tail: str | None = None,
        ended_at: int | None = None,
    ) -> tuple[str, Path]:
        """Claim the next task and settle it; return the claim's lock and its output file."""
        output_dir = self.state_dir / "output"
        output_dir.mkdir(exist_ok=True)
        with self.client() as client:
            store = client.store
            with store.transaction() as now:
                (claim,) = store.claim(
                    "default", limit=1, node="this-node", output_dir=str(output_dir), now=now
                )
                store.record_started([StartedRun(uid=claim.run_uid, pid=4321, at=now)], now=now)
            file = Path(claim.output_path)
            if output is not None:
                file.write_bytes(output)
            with store.transaction() as now:
                settlement = Settlement(
                    run_uid=claim.run_uid,
                    task_id=claim.task_id,
                    outcome=outcome,
                    run_reason="exit code 3",
                    state=state,
                    reason="used up its attempts",
                    run_at=None,
                    attempts_used=1,
                    deferrals=0,
                    orphans=0,
                    exit_code=3,
                    output_tail=tail,
                    ended_at=StoreTime(ended_at if ended_at is not None else now),
                )
                assert store.settle([settlement], now=settlement.ended_at)
        return claim.lock, file
