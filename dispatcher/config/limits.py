"""The limits of a task's times, kill signal, paths and variables.

They hold for the configuration and for a submit; each mistake has a remedy.
"""

import re
from collections.abc import Iterator
from typing import Final

from dispatcher import execution
from dispatcher.errors import InvalidTask
from dispatcher.execution import BUILT_IN
from dispatcher.model import Liveness
from dispatcher.new_task import NewTask
from dispatcher.quantities import durations, signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import WallTime, wall_clock

_UMASK: Final = re.compile("0?[0-7]{3}")

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Characters that no path may hold, as lines of logs and tables carry paths.
CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")

#: The last date of a start: milliseconds since the epoch at the end of the year 2999.
LATEST: Final = WallTime(32_503_680_000_000)

#: The longest time-out, delay or lease.
LONGEST: Final = execution.LONGEST

#: The shortest lease: it is renewed three times in its length, and each renewal is a transaction.
LEAST_LEASE: Final = durations.parse("200ms")

#: Each begins and ends at moments of its own: docs/design.md 6.1.
TIMEOUTS: Final = (
    "run_timeout",
    "stall_timeout",
    "start_timeout",
    "queue_timeout",
    "total_timeout",
)

#: Delays before a task runs again, and how often it may without the use of an attempt.
DELAYS: Final = ("backoff_min", "backoff_max", "cooldown")
BUDGETS: Final = ("max_deferrals", "max_orphans")

#: Pairs of time-outs of which the first, if longer, could never fire.
_WITHIN: Final = (
    ("run_timeout", "total_timeout"),
    ("queue_timeout", "total_timeout"),
    ("stall_timeout", "total_timeout"),
    ("start_timeout", "total_timeout"),
    ("stall_timeout", "run_timeout"),
    ("start_timeout", "run_timeout"),
    ("start_timeout", "lease_ttl"),
)


def check(task: NewTask) -> None:
    """Raise `InvalidTask` for an impossible time-out, grace, delay or signal."""
    for name in TIMEOUTS:
        _check_duration(name, _milliseconds(task, name), least=1)
    for name in ("kill_grace", *DELAYS):
        _check_duration(name, _milliseconds(task, name), least=0)
    least, most = task.backoff_min_ms, task.backoff_max_ms
    if mistake := backoff_mistake(
        BUILT_IN.backoff_min_ms if least is None else least,
        BUILT_IN.backoff_max_ms if most is None else most,
    ):
        raise InvalidTask(mistake)
    if task.kill_signal is not None:
        try:
            signal_names.parse(task.kill_signal)
        except ValueError as error:
            raise InvalidTask(f"kill_signal: {error}") from None
    if task.start_timeout_ms is not None and task.liveness is not Liveness.WORKER:
        raise InvalidTask(
            "start_timeout: waits for a first heartbeat, which a task with liveness process"
            " need not give; add liveness worker, or use run_timeout"
        )
    if mistake := contradiction(task):
        raise InvalidTask(mistake)
    total = task.total_timeout_ms
    if total is not None and task.start_at is not None and task.start_at - wall_clock() >= total:
        raise InvalidTask(
            f"at: leaves nothing of total_timeout ({Milliseconds(total)}), which counts from now;"
            " name an earlier time, or raise that"
        )
    if total is not None and task.delay_ms >= total:
        raise InvalidTask(
            f"delay: {Milliseconds(task.delay_ms)} leaves nothing of total_timeout"
            f" ({Milliseconds(total)}), which counts from now; lower it or raise that"
        )


def contradiction(wanted: object) -> str | None:
    """Return which time-out of a task, or of defaults, could never fire; None: each may."""
    for name, other in _WITHIN:
        mine, its = _milliseconds(wanted, name), _milliseconds(wanted, other)
        if mine is not None and its is not None and mine > its:
            return (
                f"{name}: {Milliseconds(mine)} is longer than {other} ({Milliseconds(its)}),"
                f" which would come first; lower it or raise {other}"
            )
    return None


def backoff_mistake(least: int, most: int) -> str | None:
    """Return the mistake and the remedy for a shortest back-off above the longest."""
    if least <= most:
        return None
    shown = f"{Milliseconds(least)} is more than backoff_max ({Milliseconds(most)})"
    return f"backoff_min: {shown}; lower it or raise that"


def too_long(section: object, *names: str) -> Iterator[str]:
    """Yield a mistake for each duration of a section that no task may have."""
    for name in names:
        if (given := _milliseconds(section, name) or 0) > LONGEST:
            yield f"{name}: {Milliseconds(given)} is longer than {LONGEST}; lower it"


def check_variable(name: str) -> None:
    """Raise ValueError with the remedy for a name that no variable of a task may have."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not a name of a variable; use letters, digits and _")
    if name.startswith("DISPATCHER_") and name != "DISPATCHER_CONFIG":
        raise ValueError(f"{name} is set by the dispatcher itself; use another name")


def umask(text: str) -> int:
    """Return the umask of octal digits. Raises ValueError with the remedy."""
    if not _UMASK.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a umask; write three octal digits, for example 022")
    return int(text, 8)


def unprintable_path(path: str) -> str:
    """Return the mistake and the remedy for a path with a `CONTROL` character."""
    return f"{path!r} holds a line break or another control character; rename it, or name another"


def _milliseconds(wanted: object, name: str) -> int | None:
    value: int | None = getattr(wanted, f"{name}_ms")
    return value


def _check_duration(name: str, value: int | None, *, least: int) -> None:
    if value is None:
        return
    if value < least:
        remedy = "above 0; leave it out for none" if least else "0 or more"
        raise InvalidTask(f"{name}: must be {remedy}")
    if value > LONGEST:
        raise InvalidTask(f"{name}: {Milliseconds(value)} is longer than {LONGEST}; lower it")
