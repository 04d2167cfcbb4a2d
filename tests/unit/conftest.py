"""A command line in this process, and a client of its store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.client import Client
from tests.command import Command
from tests.fresh_stores import put_fresh_store


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    command = Command(tmp_path, capsys, monkeypatch)
    command.state_dir.mkdir(mode=0o700)
    put_fresh_store(command.state_dir)
    return command


@pytest.fixture
def client(command: Command) -> Iterator[Client]:
    with command.client() as client:
        yield client
