"""Checks of every test: each line that its process logs matches the catalogue."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from dispatcher.config.config import load
from dispatcher.logs import logs
from tests.postgres import Postgres, running

# A shell without job control lets its background jobs, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def catalogued() -> Iterator[None]:
    logs.repeats.forget()
    logs.set_up(load(None, {"STATE_DIRECTORY": "/v"}), strict=True)
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which all commands of a test run keep their compiled modules.

    All processes share it, as compiling takes seconds of CPU.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    directory = base / "bytecode"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def server_files(bytecode: Path) -> Path:
    """Where the first process of a test run leaves the files of a server, for all to copy."""
    return bytecode.with_name("postgresql")


@pytest.fixture(scope="session")
def postgres(server_files: Path) -> Iterator[Postgres]:
    """A server of this process, for tests that leave it as it was."""
    with running(server_files) as server:
        yield server
