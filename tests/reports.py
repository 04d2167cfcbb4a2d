"""Reports of a daemon that is fine, but for what a test changes."""

from typing import Any

import msgspec

from dispatcher.daemon_report import DaemonReport


def report(**changes: Any) -> DaemonReport:
    """Return the report of a daemon with two free slots and an executor."""
    facts: dict[str, Any] = {
        "pid": 7,
        "node": "n",
        "hostname": "h",
        "slots": 2,
        "busy": 0,
        "executor": "connected",
    }
    return msgspec.convert({**facts, **changes}, DaemonReport)
