"""An executor's log that is a list."""

from __future__ import annotations

import math
from typing import Any

from dispatcher.catalogue import EXECUTOR
from dispatcher.times import Instant


class Heard:
    """Keeps what it is told, which must be as the catalogue says."""

    due = Instant(math.inf)

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def __call__(self, event: str, **facts: object) -> None:
        entry = EXECUTOR[event]
        line = {"timestamp": "", "level": entry.level, "event": event, "sequence": 1, **facts}
        assert [] == entry.mistakes(line), line
        self._events.append({"event": event, **facts})
