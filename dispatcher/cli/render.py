"""Tasks and runs as JSON that other programs rely on, and as text that a terminal survives."""

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from dispatcher import nodes
from dispatcher.calendar import Calendar
from dispatcher.cli.output import end_of
from dispatcher.config.limits import TIMEOUTS
from dispatcher.execution import LOCAL
from dispatcher.handover import Handover
from dispatcher.host.run_output import dropped
from dispatcher.model import Run, Task
from dispatcher.submission import FIXED
from dispatcher.times import StoreTime

#: Characters shown of a long text; `show --json` has all of it.
SHORT = 120

#: Units of time for people, with their seconds, the longest first.
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

#: Control characters, which a terminal obeys instead of showing them; output may have tabs and
#: newlines.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


#: Of when a task may run, and who submitted it.
_RULES = ("blockers", "on_parent_failure", "origin", "ageing_ms")


def task_json(task: Task, calendar: Calendar) -> dict[str, Any]:
    """Return a task as `list --json` shows it; only the names of its environment."""
    return {
        "id": task.id,
        "state": task.state,
        "reason": task.reason,
        "queue": task.queue,
        "priority": task.priority,
        "command": task.command,
        "attempts_used": task.attempts_used,
        "max_attempts": task.max_attempts,
        "fence": task.fence,
        "created_at": calendar.iso(task.created_at),
        "run_at": calendar.iso(task.run_at),
        "finished_at": moment(task.finished_at, calendar),
        "ending": task.ending,
        "intent": task.intent,
        "intent_reason": task.intent_reason,
        "deferrals": task.deferrals,
        "orphans": task.orphans,
        "liveness": task.liveness,
        "notify": task.notify,
        "lease_ttl_ms": int(task.lease_ttl_ms),
        **{f"{name}_ms": getattr(task, f"{name}_ms") for name in TIMEOUTS},
        "fails_at": moment(task.fails_at, calendar),
        **{name: getattr(task, name) for name in ("kill_signal", "kill_mode", *FIXED)},
        "profile": task.profile,
        "cwd": task.cwd,
        "clean_env": task.environment_id is None,
        "umask": None if task.umask is None else f"{task.umask:04o}",
        "env": sorted(task.env),
        **{name: getattr(task, name) for name in ("key", "concurrency_key")},
        **{name: dict(getattr(task, name)) for name in ("labels", "requires")},
        "limits": dict(task.takes),
        **{name: getattr(task, name) for name in _RULES},
    }


def last_run_json(run: Run | None, now: StoreTime) -> dict[str, Any]:
    """Return what `list --json` shows of a task's last run; the duration of an open one so far."""
    start = None if run is None else began(run)
    end = now if run is None or run.ended_at is None else run.ended_at
    return {
        "outcome": run and run.outcome,
        "exit_code": run and run.exit_code,
        "signal": run and run.signal,
        "duration_s": None if start is None else max(0, end - start) / 1000,
        "progress": run and run.progress,
        "note": run and run.note,
        "result": run and _json_value(run.result),
    }


def task_with_runs_json(
    task: Task, runs: list[Run], calendar: Calendar, *, budget: int
) -> dict[str, Any]:
    """Return a task as `show --json` shows it: with its payload, and its runs, oldest first.

    `budget`: bytes kept of a run's output; `output_dropped` has the bytes beyond it.
    """
    runs_json = [
        {**run_json(run, calendar), "output_dropped": dropped(run.output_path, budget)}
        for run in runs
    ]
    return {
        **task_json(task, calendar),
        **last_run_json(runs[-1] if runs else None, calendar.now),
        "payload": _json_value(task.payload),
        "runs": runs_json,
    }


def handover_json(left: Handover | None) -> dict[str, Any]:
    """Return what a task's last runs left for the next one."""
    return {
        "checkpoint": left and _json_value(left.checkpoint),
        "question": left and left.question,
        "question_kind": left and left.kind,
        "answer": left and left.answer,
    }


def _json_value(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def run_json(run: Run, calendar: Calendar) -> dict[str, Any]:
    """Return a run with every key that other programs rely on."""
    return {
        "id": run.id,
        "uid": run.uid,
        "attempt": run.attempt,
        "fence": run.fence,
        "outcome": run.outcome,
        "exit_code": run.exit_code,
        "signal": run.signal,
        "pid": run.pid,
        "node": run.node,
        "claimed_at": calendar.iso(run.claimed_at),
        "started_at": moment(run.started_at, calendar),
        "ended_at": moment(run.ended_at, calendar),
        "last_heartbeat_at": moment(run.last_heartbeat_at, calendar),
        "lease_expires_at": moment(run.lease_expires_at, calendar),
        "progress": run.progress,
        "note": run.note,
        "result": _json_value(run.result),
        "error": run.error,
        "output_tail": tail(run),
        "max_rss_bytes": run.max_rss_bytes,
        "cpu_seconds": run.cpu_seconds and round(run.cpu_seconds, 6),
        "output_path": run.output_path,
        "output_is_gone": output_is_gone(run),
        "left_alone": run.left_alone,
        "leftovers": run.leftovers,
        "output_truncated": run.output_truncated,
    }


def progress_text(run: Run) -> str:
    """Return the progress that a worker reported, '50 % "halfway"', or ""."""
    share = None if run.progress is None else f"{run.progress * 100:.3g} %"
    note = None if run.note is None else f'"{run.note}"'
    return " ".join(part for part in (share, note) if part is not None)


def short(text: str | None, most: int = SHORT) -> str:
    """Return the beginning of a text, on one line."""
    whole = line(text or "")
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def began(run: Run) -> StoreTime | None:
    """Return when a run's work began: with the claim if that is a local one."""
    return run.claimed_at if run.node.startswith(LOCAL) else run.started_at


def moment(time: StoreTime | None, calendar: Calendar) -> str | None:
    """Return a time's date as ISO 8601."""
    return None if time is None else calendar.iso(time)


def time(time: StoreTime | None, calendar: Calendar, *, absolute: bool) -> str:
    """Return a time for people: its distance from now, or its date."""
    return (moment(time, calendar) or "") if absolute else ago(time, calendar.now)


def ago(time: StoreTime | None, now: StoreTime) -> str:
    """Return the distance of a time from now: "3 min ago", "in 1 h 59 min"; "" for None."""
    if time is None:
        return ""
    if abs(now - time) < 1000:
        return "now"
    return f"in {_left(time - now)}" if time > now else f"{span(now - time)} ago"


def span(milliseconds: int) -> str:
    """Return how long ago something was, in the largest unit that is full: "3 min"."""
    seconds = milliseconds // 1000
    size, unit = next((size, unit) for size, unit in _SPANS if seconds >= size or size == 1)
    return f"{seconds // size} {unit}"


def _left(milliseconds: int) -> str:
    """Return the time until something, rounded: to hours from a day on, to minutes from ten on."""
    step = 3600 if milliseconds >= 86_400_000 else 60 if milliseconds >= 600_000 else 1
    seconds = round(milliseconds / 1000 / step) * step
    parts = []
    for size, unit in _SPANS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts)


def tail(run: Run) -> str | None:
    """Return the end of a run's output: from the store, or from its file on this host."""
    if run.output_tail is not None:
        return run.output_tail
    found = end_of(run.output_path)
    return None if found is None else found[0]


def truncated(run: Run) -> str:
    """Return how much output a run lost to truncation, and how that happens."""
    return (
        f"its output was truncated; at least {run.output_truncated} bytes are lost (by its worker,"
        " where `echo … > /dev/stderr` truncates and `echo … >&2` does not, or by another process)"
    )


def output_is_gone(run: Run) -> bool:
    return bool(run.outcome and run.output_tail) and not os.path.exists(run.output_path)  # noqa: PTH110


def size(count: int) -> str:
    """Return a number of bytes for people: three digits and a unit."""
    value, units = float(count), iter(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = next(units)
    while value >= 1000:
        value, unit = value / 1024, next(units)
    return f"{value:.3g} {unit}"


def command_text(command: tuple[str, ...]) -> str:
    """Return a command as a user types it."""
    return line(shlex.join(command))


def plain(text: str) -> str:
    """Return a text with its control characters escaped."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def as_on_a_terminal(text: str) -> list[str]:
    """Return the lines of a text as a terminal shows them: a carriage return overwrites."""
    lines = []
    for written in text.rstrip("\r\n").split("\n"):
        shown = ""
        for part in written.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown)
    return lines


def line(text: str) -> str:
    """Return a text on one line, with tabs and newlines escaped as well."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def duration(start: StoreTime | None, end: StoreTime | None) -> str:
    """Return the time between two moments for people, "" if one is missing."""
    return "" if start is None or end is None else seconds(max(0, end - start) / 1000)


def seconds(count: float) -> str:
    """Return a number of seconds for people: "1.5s", "2m03s", "1h04m"."""
    if round(count, 1) < 60:
        return f"{count:.1f}s"
    minutes, rest = divmod(round(count), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def pairs_text(pairs: Mapping[str, str]) -> str:
    """Return a mapping as NAME=VALUE pairs."""
    return plain(nodes.pairs_text(pairs))
