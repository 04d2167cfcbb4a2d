"""Logs that are lists, checked against the catalogue."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dispatcher.logs.catalogue import DAEMON, EXECUTOR
from dispatcher.times import Instant


class RecordedLog:
    """Keeps the events that are logged; each must match the catalogue."""

    due = Instant(math.inf)

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def __call__(self, event: str, **facts: object) -> None:
        entry = EXECUTOR[event]
        line = {"timestamp": "", "level": entry.level, "event": event, "sequence": 1, **facts}
        assert [] == entry.mistakes(line), line
        self._events.append({"event": event, **facts})


def expect_catalogued(captured: Iterable[Mapping[str, Any]]) -> None:
    """Fail for a line of a daemon that `capture_logs` kept and the catalogue does not describe."""
    for entry in captured:
        if "log_level" not in entry:  # not a daemon's
            continue
        line = {"timestamp": "", "sequence": 1, "level": entry["log_level"], **entry}
        del line["log_level"]
        if "exc_info" in line:
            line["exception"] = str(line.pop("exc_info"))
        assert [] == DAEMON[entry["event"]].mistakes(line), entry
