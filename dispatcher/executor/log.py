"""The executor's log: JSON lines, each with a stable `event` and the ids it is about."""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec

from dispatcher import times


class Log:
    """Writes one line per event to a descriptor; a full disk costs the line, never the caller."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, event: str, **facts: object) -> None:
        """Write `event`, a ``noun.verb_past``, with its facts."""
        line = {"time": times.iso(times.wall_clock()), "event": event, **facts}
        with suppress(OSError):
            os.write(self._descriptor, msgspec.json.encode(line) + b"\n")
