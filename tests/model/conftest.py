import msgspec
import pytest

from dispatcher.config.config import load
from dispatcher.config.report_settings import LogsSection
from dispatcher.logs import logs


@pytest.fixture
def quiet(catalogued: None) -> None:
    """Log next to nothing: a day of workers would log each."""
    config = load(None, {"STATE_DIRECTORY": "/v"})
    logs.set_up(msgspec.structs.replace(config, logs=LogsSection(level="error")), strict=True)
