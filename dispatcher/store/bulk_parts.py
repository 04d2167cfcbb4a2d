"""The parts of bulk submits, as JSON: shortened when written, checked when read back."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT, structs

from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.environment import Environment
from dispatcher.errors import StoreRefused
from dispatcher.execution import RetryPolicy
from dispatcher.new_task import NewTask
from dispatcher.store.engine import Engine
from dispatcher.store.rows import DAMAGED, names
from dispatcher.store.statements import submitters as sql

#: A part's number, its tasks, and its damage.
Part = tuple[object, list[NewTask], str | None]

#: Values that most tasks have; they are left out.
_DEFAULTS: Final = {
    field.name: field.default if field.default_factory is NODEFAULT else field.default_factory()
    for field in structs.fields(NewTask)
}

#: Damaged parts to name, and bulk submits to search for them.
_MOST_NAMED: Final = 10
_MOST_SEARCHED: Final = 100

#: Lower bounds of a task's numbers in the schema; an upper bound that leaves room to add times.
_LEAST: Final[Mapping[str, int]] = {
    **dict.fromkeys(("delay_ms", "start_at", "kill_grace_ms", "umask"), 0),
    **dict.fromkeys(names(RetryPolicy), 0),
    **dict.fromkeys(("max_attempts", "lease_ttl_ms", "kill_signal"), 1),
    **dict.fromkeys((name for name in NewTask.__struct_fields__ if "timeout" in name), 1),
}
_MOST: Final = 2**62
_MOST_OF: Final = {"umask": 0o777}


def encoded(value: object, numbers: dict[Environment, int] | None = None) -> bytes:
    """Return a value as JSON, with each environment as its number; new ones get the next.

    Raises `StoreRefused` if no row can hold it.
    """
    known = {} if numbers is None else numbers

    def number_of(one: object) -> int:
        if not isinstance(one, Environment):
            raise TypeError(f"it holds a {type(one).__name__}")
        return known.setdefault(one, len(known))

    try:
        return msgspec.json.encode(value, enc_hook=number_of)
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise StoreRefused(f"no row can hold it: {error}") from error


def encoded_part(tasks: Sequence[NewTask]) -> tuple[str, str | None]:
    """Return tasks as JSON, and their environments, which the tasks refer to by number.

    Raises `StoreRefused` like `encoded`.
    """
    numbers: dict[Environment, int] = {}
    text = encoded([shortened(task) for task in tasks], numbers).decode()
    return text, f"[{','.join(one.text for one in numbers)}]" if numbers else None


def shortened(task: NewTask) -> dict[str, Any]:
    """Return a task's fields without defaults."""
    values = ((name, getattr(task, name)) for name in _DEFAULTS)
    return {name: value for name, value in values if value != _DEFAULTS[name]}


def left(engine: Engine, uid: str) -> Iterator[Part]:
    """Yield, in order, the accepted parts that are not tasks yet."""
    after: object = -1
    while rows := engine.rows(sql.NEXT_PART, {"uid": uid, "after": after}):
        after, text, environments = rows[0]
        yield (after, *_part_from(text, environments))


def coming(engine: Engine) -> int:
    """Return the number of accepted tasks that are not tasks yet."""
    return int(engine.rows(sql.COMING)[0][0])


def damaged(engine: Engine) -> list[str]:
    """Return which accepted parts are damaged, and how; within each submit up to a sound one."""
    found = (
        f"part {part} of bulk submit {uid} is {DAMAGED}{damage}"
        for uid, parts in islice(_accepted(engine), _MOST_SEARCHED)
        for part, _, damage in takewhile(lambda one: one[2] is not None, parts)
    )
    return list(islice(found, _MOST_NAMED))


def is_coming(engine: Engine) -> bool:
    """Return whether any accepted part can become tasks without repair."""
    return any(damage is None for _, parts in _accepted(engine) for _, _, damage in parts)


def _accepted(engine: Engine) -> Iterator[tuple[str, Iterator[Part]]]:
    for (uid,) in engine.rows(sql.ACCEPTED):
        yield uid, left(engine, uid)


def _part_from(text: Any, environments: Any) -> tuple[list[NewTask], str | None]:
    """Return a part's tasks, and its damage by hand."""
    try:
        texts = msgspec.json.decode(environments or "[]", type=list[msgspec.Raw])
        known = [Environment.from_json(text) for text in texts]
    except (*UNREADABLE, TypeError):
        return [], "environments: they are not readable"
    try:
        tasks = msgspec.json.decode(
            text, type=list[NewTask], dec_hook=lambda _, number: _numbered(known, number)
        )
    except TypeError:
        return [], "expected a text"
    except UNREADABLE as error:
        return [], in_words(error)
    faults = (f"item {n}: {fault}" for n, task in enumerate(tasks, 1) if (fault := _fault(task)))
    return tasks, next(faults, None)


def _numbered(known: Sequence[Environment], number: object) -> Environment:
    if not isinstance(number, int) or not 0 <= number < len(known):
        raise ValueError("the part has no such environment")
    return known[number]


def _fault(task: NewTask) -> str | None:
    """Return which field breaks a rule of the schema."""
    if not task.queue:
        return "queue: is empty"
    for name, least in _LEAST.items():
        most = _MOST_OF.get(name, _MOST)
        if (value := getattr(task, name)) is not None and not least <= value <= most:
            return f"{name}: must be from {least} to {most}"
    shortest, longest = task.backoff_min_ms, task.backoff_max_ms
    if shortest is not None and longest is not None and shortest > longest:
        return "backoff_min_ms: is more than backoff_max_ms"
    return None
