"""The model's values from rows, also from rows that somebody changed by hand.

A column that does not hold what it must is damaged. It reads as if nothing stood there, so that no
row keeps another from being read, and what is wrong stands in a reason, which the row's task has.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.execution import NO_LIMITS, Limits, OpenRun
from dispatcher.model import GivenUp, Intent, Liveness, Node, Run, Task
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.engine import Row
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode

Kind = TypeVar("Kind")

#: What the reason of a damaged row begins with.
DAMAGED: Final = "damaged by hand: "

_command_from = msgspec.json.Decoder(tuple[str, ...]).decode
_strings_from = msgspec.json.Decoder(dict[str, str]).decode

#: How columns are read that hold JSON, and those that hold a boolean in any database.
_READ: Final[Mapping[str, Callable[[Any], object]]] = {
    "command": _command_from,
    "env": _strings_from,
    "labels": _strings_from,
    "rules": lambda text: _strings_from(text) if text else {},
    "left_alone": lambda text: _command_from(text) if text else (),
    "leftovers": lambda text: _command_from(text) if text else (),
    "notify": bool,
    "declared_retry": lambda value: value is None or bool(value),
}

#: What takes the place of a damaged column, by the type that is wanted; None where that may be.
_NOTHING: Final[tuple[object, ...]] = ("", 0, False, (), {}, Liveness.PROCESS)

#: The same of columns of which nothing would be too little: a lease's milliseconds.
_INSTEAD: Final = {"lease_ttl_ms": 60_000, "max_attempts": 1}

_LIMITS: Final = (
    "run_timeout_ms", "stall_timeout_ms", "start_timeout_ms", "total_at", "kill_signal",
)  # fmt: skip
_UNLIMITED: Final = (None,) * len(_LIMITS)

_TASK: Final = tuple(field.name for field in fields(Task))
_RUN: Final = tuple(field.name for field in fields(Run))
_NODE: Final = tuple(field.name for field in fields(Node))

#: In the order of `statements._OPEN`, without the limits.
_OPEN_RUN: Final = (
    "task_id", "run_id", "run_uid", "fence", "attempt", "queue", "liveness", "lease_ttl_ms",
    "ending", "ending_reason", "pid", "exit_code", "signal", "declared", "declared_reason",
    "declared_delay_ms", "declared_retry", "attempts_used", "max_attempts", "deferrals", "orphans",
    "last_heartbeat_at", "progressed_at", "kill_grace_ms", "owner", "rules", "output_path",
    "intent", "intent_reason", "lease_expires_at", "deadline_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A row of `statements.READY`, in its order but for the limits, which come last there."""

    task_id: int
    queue: str
    command: tuple[str, ...]
    payload: str | None
    cwd: str | None
    env: Mapping[str, str]
    liveness: Liveness
    lease_ttl_ms: int
    attempts_used: int
    fence: int
    profile: str | None
    rules: Mapping[str, str]
    notify: bool
    kill_grace_ms: int | None
    kill_mode: KillMode | None
    limits: Limits = NO_LIMITS
    damage: str | None = None
    """What is wrong with the row, so that nobody can claim it."""

    def takeover_at(self, until: StoreTime | None) -> StoreTime | None:
        """Return from when on another node may take the claim; None: never."""
        return None if until is None else StoreTime(until + (self.kill_grace_ms or 0))

    def expiry(self, now: StoreTime, deadline_at: StoreTime | None) -> StoreTime:
        """Return when the lease of a claim made now expires."""
        expires_at = StoreTime(now + self.lease_ttl_ms)
        return expires_at if deadline_at is None else min(expires_at, deadline_at)


_READY: Final = tuple(field.name for field in fields(Ready))[:15]


def ready_from(row: Row, kill_grace_ms: int | None = None) -> Ready:
    """Return the value of a row of `statements.READY`, with the node's grace if it has none."""
    named = dict(zip(_READY, row[:15], strict=True))
    if named["kill_grace_ms"] is None:
        named["kill_grace_ms"] = kill_grace_ms
    ready, damage = _with_limits(Ready, named, row[15:])
    return ready if damage is None else replace(ready, damage=damage)


def open_run_from(row: Row) -> OpenRun:
    """Return the value of a row of `statements.OPEN_RUN` and its kind.

    The task of a damaged one is held once it is over, as if an operator had asked for it.
    """
    named = dict(zip(_OPEN_RUN, row[:23] + row[28:], strict=True))
    run, damage = _with_limits(OpenRun, named, row[23:28])
    if damage is None or run.intent is Intent.CANCEL:
        return run
    return replace(run, intent=Intent.HOLD, intent_reason=damage)


def task_from(row: Row) -> Task:
    """Return the value of a row of `statements.TASK` and `TASKS`."""
    task, wrong = _value_from(Task, dict(zip(_TASK, row, strict=True)))
    damage = _damage(wrong)
    if damage is None or task.reason.startswith(DAMAGED):
        return task
    return replace(task, reason=f"{damage}; {task.reason}")


def run_from(row: Row) -> Run:
    """Return the value of a row of `statements.RUNS`."""
    run, wrong = _value_from(Run, dict(zip(_RUN, row, strict=True)))
    return run if not wrong else replace(run, reason=_damage(wrong))


def node_from(row: Row) -> Node:
    """Return the value of a row of `statements.NODES`."""
    return _value_from(Node, dict(zip(_NODE, row, strict=True)))[0]


def given_up_from(row: Row, now: StoreTime) -> GivenUp:
    """Return the value of a row of `statements.OVERDUE`: which of its time-outs is over."""
    task_id, queue, queue_timeout_ms, total_timeout_ms, total_at = row
    if (total := time_from(total_at)) is not None and total <= now:
        reason = f"total_timeout: not done within {_written(total_timeout_ms)} of its submit"
        return GivenUp(task_id=task_id, queue=queue, timeout="total_timeout", reason=reason)
    reason = f"queue_timeout: not claimed within {_written(queue_timeout_ms)}"
    return GivenUp(task_id=task_id, queue=queue, timeout="queue_timeout", reason=reason)


def time_from(value: object) -> StoreTime | None:
    """Return a time of the store's; None where none stands, or something else does."""
    return StoreTime(value) if isinstance(value, int) else None


def _written(duration_ms: object) -> str:
    return str(Milliseconds(duration_ms)) if isinstance(duration_ms, int) else "its time"


def _with_limits(kind: type[Kind], named: dict[str, Any], row: Row) -> tuple[Kind, str | None]:
    """Return a value that has limits, which stand in another row, and how the two are damaged."""
    value, wrong = _value_from(kind, named)
    if row != _UNLIMITED:
        limits, also = _value_from(Limits, dict(zip(_LIMITS, row, strict=True)))
        value, wrong = replace(value, limits=limits), wrong + also  # type: ignore[type-var]
    return value, _damage(wrong)


def _value_from(kind: type[Kind], named: dict[str, Any]) -> tuple[Kind, list[str]]:
    """Return a row's value, and what is wrong with each damaged column."""
    values = dict(named)
    try:
        for name, read in _READ.items():
            if name in values:
                values[name] = read(values[name])
        return msgspec.convert(values, kind), []
    except (*UNREADABLE, TypeError):
        return _value_of_damaged(kind, named)


def _value_of_damaged(kind: type[Kind], named: Mapping[str, Any]) -> tuple[Kind, list[str]]:
    values: dict[str, object] = {}
    wrong = []
    for name, value in named.items():
        wanted = _types(kind)[name]  # type: ignore[arg-type]
        try:
            values[name] = msgspec.convert(_READ[name](value) if name in _READ else value, wanted)
        except (*UNREADABLE, TypeError) as error:
            said = "expected a text" if isinstance(error, TypeError) else in_words(error)
            wrong.append(f"{name}: {said}")
            values[name] = _nothing(name, wanted)
    return msgspec.convert(values, kind), wrong


@cache
def _types(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _nothing(name: str, wanted: Any) -> object:
    """Return what a column of a type reads as that does not hold it."""
    if get_origin(wanted) in (Union, types.UnionType) and type(None) in get_args(wanted):
        return None
    return _INSTEAD.get(name, next((one for one in _NOTHING if _fits(one, wanted)), None))


def _fits(value: object, wanted: Any) -> bool:
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        return False
    return True


def _damage(wrong: Sequence[str]) -> str | None:
    return DAMAGED + ", ".join(wrong) if wrong else None
