"""A command line in this process, and a client of its store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.client import Client
from tests.command import Command


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    return Command(tmp_path, capsys, monkeypatch)


@pytest.fixture
def client(command: Command) -> Iterator[Client]:
    with command.client() as client:
        yield client
