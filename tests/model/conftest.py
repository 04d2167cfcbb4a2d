from __future__ import annotations

import msgspec
import pytest

from dispatcher import logs
from dispatcher.config import load
from dispatcher.settings import Logs


@pytest.fixture
def quiet(catalogued: None) -> None:
    """Log next to nothing: a day of workers would tell of each."""
    config = load(None, {"STATE_DIRECTORY": "/v"})
    logs.set_up(msgspec.structs.replace(config, logs=Logs(level="error")), strict=True)
