"""A look at a run's output file: cheap, as it is made for every run with a stall time-out."""

import math
import os

from dispatcher.executor_api import OutputState
from dispatcher.times import wall_clock


def output_state(path: str, pid: int | None) -> OutputState:
    """Return the state of the file that a run's leader writes to: see `ExecutorApi`."""
    try:
        found = os.stat(_written_path(path, pid))  # noqa: PTH116 - as cheap as it gets
    except OSError:
        return OutputState(0, 0.0, math.inf)
    age = (wall_clock() - found.st_mtime_ns // 1_000_000) / 1000
    return OutputState(found.st_size, found.st_mtime, age)


def _written_path(path: str, pid: int | None) -> str:
    """Return the leader's stdout, if that is in the output's directory, or the path itself.

    The leader may have redirected it, have exited, or be another user's.
    """
    stdout = f"/proc/{pid}/fd/1"
    if pid is None or os.path.dirname(_target(stdout)) != os.path.dirname(path):  # noqa: PTH120
        return path
    return stdout


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - as cheap as it gets
    except OSError:
        return ""
