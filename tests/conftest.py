"""What holds in every test: each line that is logged in its process is as the catalogue says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from dispatcher.config.config import load
from dispatcher.logs import logs


@pytest.fixture(autouse=True)
def catalogued() -> Iterator[None]:
    logs.repeats.forget()
    logs.set_up(load(None, {"STATE_DIRECTORY": "/v"}), strict=True)
    yield
    structlog.reset_defaults()
