"""The model's values: the columns of each, and its reading from rows perhaps changed by hand.

A damaged column, with a value of a wrong type or beyond its bounds, reads as not set, so that one
row never hides others. The reason of the row's task names the damage.
"""

import types
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from dispatcher import lanes
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.dependency import Dependency
from dispatcher.environment import Environment
from dispatcher.events import StoreEvent
from dispatcher.execution import (
    BUILT_IN,
    NO_LIMITS,
    BegunEnding,
    Count,
    Duration,
    Fence,
    GivenUp,
    Lease,
    Limits,
    OpenRun,
    RetryPolicy,
)
from dispatcher.model import Intent, Liveness, Node, Run, Task, TaskState
from dispatcher.named_limits import units_from
from dispatcher.new_task import is_rule
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.engine import Row
from dispatcher.times import StoreTime
from dispatcher.wire import KillMode

Kind = TypeVar("Kind")


#: Fields that are values of their own. A column holds each of theirs; NULL: the default.
_NESTED: Final[Mapping[str, Any]] = {"limits": Limits, "retry": RetryPolicy}


@cache
def names(kind: Any) -> tuple[str, ...]:
    """Return a value's fields, in order; those of a nested value in its place."""
    own = ((names(_NESTED[one]) if one in _NESTED else (one,)) for one in kind.__struct_fields__)
    return tuple(name for some in own for name in some)


def columns(kind: Any, /, **expressions: str) -> str:
    """Return the list that a SELECT reads a value from: by default a column named as the field."""
    return ", ".join(expressions.get(name, name) for name in names(kind))


_STATES: Final = frozenset(TaskState)

#: Prefix of a damaged row's reason.
DAMAGED: Final = "damaged by hand: "

#: Ends the reason of a task that is held for its damage.
DAMAGE_REMEDY: Final = "; correct it and release the task, or cancel it and submit another"


def _rules_from(text: str) -> Mapping[str, str]:
    """Return a profile's rules. Raises one of `UNREADABLE`."""
    rules = _strings_from(text)
    for name, word in rules.items():
        if not is_rule(name, word):
            raise msgspec.ValidationError(f"{name}: {word!r} is not a rule")
    return rules


_command_from = msgspec.json.Decoder(tuple[str, ...]).decode
_strings_from = msgspec.json.Decoder(dict[str, str]).decode

# Claims in a row have the same few environments.
_environment_from = lru_cache(maxsize=16)(Environment.from_json)

#: Decoders of columns that hold JSON, or a boolean, which some databases store as a number.
_DECODERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "command": _command_from,
    "env": _strings_from,
    "environment": lambda text: None if text is None else _environment_from(text),
    "labels": _strings_from,
    "obeys": lambda text: _strings_from(text) if text else None,
    "requires": lambda text: _strings_from(text) if text else {},
    "takes": lambda text: units_from(text) if text else {},
    "rules": lambda text: _rules_from(text) if text else {},
    "left_alone": lambda text: _command_from(text) if text else (),
    "leftovers": lambda text: _command_from(text) if text else (),
    "notify": bool,
    "awaited": bool,
    "any_outcome": bool,
    "declared_retry": lambda value: value is None or bool(value),
}

#: Values that a damaged column reads as: the first that fits its type, but None where that fits.
_DEFAULTS: Final[tuple[object, ...]] = ("", 0, 1, False, (), {}, Liveness.PROCESS)

#: The same of columns with another default; the lease in milliseconds.
_DEFAULTS_BY_NAME: Final = {
    "lease_ttl_ms": 60_000,
    "state": TaskState.HELD,
    **asdict(BUILT_IN),
}


class Ready(Struct, frozen=True, kw_only=True):
    """A ready task, with what a claim needs of it."""

    task_id: int
    queue: str
    command: tuple[str, ...]
    payload: str | None
    cwd: str | None
    env: Mapping[str, str]
    liveness: Liveness
    lease_ttl_ms: Lease
    attempts_used: Count
    fence: Fence
    profile: str | None
    rules: Mapping[str, str]
    notify: bool
    kill_grace_ms: Duration
    kill_mode: KillMode | None
    environment: Environment | None
    umask: int | None
    requires: Mapping[str, str]
    lane: str
    takes: Mapping[str, int]
    blockers: Count | None
    limits: Limits = NO_LIMITS

    def takeover_at(self, until: StoreTime | None) -> StoreTime | None:
        """Return when another node may take the claim; None: never."""
        return None if until is None else StoreTime(until + self.kill_grace_ms)

    def expiry(self, now: StoreTime, deadline_at: StoreTime | None) -> StoreTime:
        """Return when the lease of a claim made now expires."""
        expires_at = StoreTime(now + self.lease_ttl_ms)
        return expires_at if deadline_at is None else min(expires_at, deadline_at)


def ready_from(row: Row) -> tuple[Ready, str | None]:
    """Return a ready task, and its row's damage."""
    ready, damage = _value_and_damage(Ready, row)
    if damage is None and not lanes.is_of(ready.lane, ready.requires, ready.takes):
        damage = f"{DAMAGED}lane: is not that of what the task requires"
    return ready, None if damage is None else damage + DAMAGE_REMEDY


def open_run_from(row: Row) -> OpenRun:
    """Return an open run; if damaged, with the intent to hold its task once it is over."""
    run, damage = _value_and_damage(OpenRun, row)
    if damage is None or run.intent is Intent.CANCEL:
        return run
    return replace(run, intent=Intent.HOLD, intent_reason=damage + DAMAGE_REMEDY)


def ending_from(row: Row) -> BegunEnding:
    return _value_and_damage(BegunEnding, row)[0]


def task_from(row: Row) -> Task:
    """Return a task; its reason names the damage of its row."""
    task, damage = _value_and_damage(Task, row)
    if damage is None or task.reason.startswith(DAMAGED):
        return task
    return replace(task, reason=f"{damage}; {task.reason}")


def run_from(row: Row) -> Run:
    """Return a run; its reason is the damage of its row, if any."""
    run, damage = _value_and_damage(Run, row)
    return run if damage is None else replace(run, reason=damage)


def environment_from(text: object) -> Environment | None:
    """Return a stored environment; None for damage."""
    try:
        return _environment_from(text)
    except (*UNREADABLE, TypeError):
        return None


def dependency_from(row: Row) -> Dependency:
    return _value_and_damage(Dependency, row)[0]


def node_from(row: Row) -> Node:
    return _value_and_damage(Node, row)[0]


def event_from(row: Row) -> StoreEvent:
    return _value_and_damage(StoreEvent, row)[0]


def value_from(kind: type[Kind], row: Row) -> Kind:
    """Return a value that was read by `columns(kind)`."""
    return _value_and_damage(kind, row)[0]


def given_up_from(row: Row, now: StoreTime) -> GivenUp:
    """Return a task that is over its time, from a row of `OVERDUE`: which time-out it was."""
    task_id, queue, queue_timeout_ms, total_timeout_ms, total_at, retried_at = row
    if (total := time_from(total_at)) is not None and total <= now:
        begin = "submit" if retried_at is None else "retry"
        reason = f"total_timeout: not done within {_shown(total_timeout_ms)} of its {begin}"
        return GivenUp(task_id=task_id, queue=queue, timeout="total_timeout", reason=reason)
    reason = f"queue_timeout: not claimed within {_shown(queue_timeout_ms)}"
    return GivenUp(task_id=task_id, queue=queue, timeout="queue_timeout", reason=reason)


def state_from(value: object) -> TaskState:
    """Return a task's state; `held` for damage, as in `Task`, so that an operator decides."""
    return TaskState(str(value)) if value in _STATES else TaskState.HELD


def time_from(value: object) -> StoreTime | None:
    """Return a store time; None for NULL and for damage."""
    return StoreTime(value) if isinstance(value, int) else None


def _shown(duration_ms: object) -> str:
    return str(Milliseconds(duration_ms)) if isinstance(duration_ms, int) else "its time"


def _value_and_damage(kind: type[Kind], row: Row) -> tuple[Kind, str | None]:
    """Return the value of a row that was read by `columns(kind)`, and how the row is damaged."""
    named = dict(zip(names(kind), row, strict=True))  # type: ignore[arg-type]
    nested = {}
    for field, own in _nested(kind):  # type: ignore[arg-type]
        if given := {name: one for name in own if (one := named.pop(name)) is not None}:
            nested[field] = given
    value, faults = _columns_from(kind, named)
    for field, given in nested.items():
        found, also = _columns_from(_NESTED[field], given)
        value, faults = replace(value, **{field: found}), faults + also  # type: ignore[type-var]
    return value, DAMAGED + ", ".join(faults) if faults else None


def _columns_from(kind: type[Kind], named: dict[str, Any]) -> tuple[Kind, list[str]]:
    """Return a value, and the name and fault of each damaged column."""
    values = dict(named)
    try:
        for name, decode in _DECODERS.items():
            if name in values:
                values[name] = decode(values[name])
        return msgspec.convert(values, kind), []
    except (*UNREADABLE, TypeError):
        return _value_of_damaged(kind, named)


def _value_of_damaged(kind: type[Kind], named: Mapping[str, Any]) -> tuple[Kind, list[str]]:
    values: dict[str, object] = {}
    faults = []
    for name, value in named.items():
        wanted = _types(kind)[name]  # type: ignore[arg-type]
        try:
            values[name] = msgspec.convert(
                _DECODERS[name](value) if name in _DECODERS else value, wanted
            )
        except (*UNREADABLE, TypeError) as error:
            fault = "expected a text" if isinstance(error, TypeError) else in_words(error)
            faults.append(f"{name}: {fault}")
            values[name] = _default(name, wanted)
    return msgspec.convert(values, kind), faults


@cache
def _nested(kind: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Return the nested values of a kind, each with its columns."""
    return [(one, names(_NESTED[one])) for one in kind.__struct_fields__ if one in _NESTED]


@cache
def _types(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _default(name: str, wanted: Any) -> object:
    """Return the value that a damaged column of a type reads as."""
    if get_origin(wanted) in (Union, types.UnionType) and type(None) in get_args(wanted):
        return None
    return _DEFAULTS_BY_NAME.get(name, next((one for one in _DEFAULTS if _fits(one, wanted)), None))


def _fits(value: object, wanted: Any) -> bool:
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        return False
    return True
