"""A task's order and bounds as text: its priority, time-outs, how its runs end, and its retries."""

from signal import SIGTERM

from dispatcher.config.limits import BUDGETS, DELAYS, TIMEOUTS
from dispatcher.model import Task
from dispatcher.quantities import signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.wire import KillMode


def order_text(task: Task) -> str:
    """Return a task's queue and priority, and the waiting that is worth a point of that."""
    ageing = "" if task.ageing_ms is None else f", {Milliseconds(task.ageing_ms)} a point"
    return f"{task.queue}, priority {task.priority}{ageing}"


def timeouts_text(task: Task) -> str:
    """Return a task's time-outs as a user types them, "" for none."""
    given = ((name, getattr(task, f"{name}_ms")) for name in TIMEOUTS)
    return ", ".join(
        f"{name.removesuffix('_timeout')} {Milliseconds(value)}"
        for name, value in given
        if value is not None
    )


def kill_text(task: Task) -> str:
    """Return how a task's runs are ended, "" for the default."""
    parts = []
    if task.kill_mode is KillMode.LEADER:
        parts.append(
            f"{signal_names.name_of(task.kill_signal or SIGTERM)} to the first process alone"
        )
    elif task.kill_signal is not None:
        parts.append(signal_names.name_of(task.kill_signal))
    if task.kill_grace_ms is not None:
        parts.append(f"SIGKILL after {Milliseconds(task.kill_grace_ms)}")
    return ", ".join(parts)


def retry_text(task: Task) -> str:
    """Return what differs from the built-in retry policy, as a user types it; "" for nothing."""
    delays = ((name, getattr(task, f"{name}_ms")) for name in DELAYS)
    shown = {name: Milliseconds(value) for name, value in delays if value is not None}
    budgets = ((name, getattr(task, name)) for name in BUDGETS)
    shown |= {name: value for name, value in budgets if value is not None}
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in shown.items())
