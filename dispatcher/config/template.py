"""A profile's command: arguments with `{key}` in them, filled from a payload's top-level keys.

Each argument stays one argument with any payload; no shell ever sees it.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from dispatcher.errors import InvalidTask, did_you_mean

_PART = re.compile(r"(?P<literal>\{\{|\}\})|\{(?P<key>[A-Za-z_][A-Za-z0-9_-]*)\}|(?P<wrong>[{}])")


def check(template: Sequence[str]) -> None:
    """Raise ValueError for a brace that is neither doubled nor part of a `{key}`."""
    for argument in template:
        if any(found["wrong"] for found in _PART.finditer(argument)):
            raise ValueError(f"{argument!r} has a lone brace; write {{key}}, or {{{{ for a brace")


def keys(template: Sequence[str]) -> Iterator[str]:
    """Yield the keys that a payload must have."""
    for argument in template:
        yield from (found["key"] for found in _PART.finditer(argument) if found["key"])


def fill(template: Sequence[str], payload: str | None) -> tuple[str, ...]:
    """Return the command for a payload, JSON text. Raises `InvalidTask`, which names the key.

    Numbers, true and false are filled in as the payload writes them.
    """
    values = _scalars(payload, sorted(set(keys(template))))
    return tuple(_PART.sub(lambda found: _part(found, values), argument) for argument in template)


def _part(found: re.Match[str], values: dict[str, str]) -> str:
    return values[found["key"]] if found["key"] else found[0][0]


def _scalars(payload: str | None, wanted: Sequence[str]) -> dict[str, str]:
    if not wanted:
        return {}
    needed = f"with {', '.join(wanted)}, which the command needs"
    if payload is None:
        raise InvalidTask(f"payload: is missing; give a JSON object {needed}")
    try:
        given = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidTask(f"payload: is not a JSON object; give one {needed}") from None
    values = {}
    for key in wanted:
        if key not in given:
            near = did_you_mean(key, given) or "; add it"
            raise InvalidTask(f"payload: has no {key!r}, which the command needs{near}")
        text = bytes(given[key]).decode()
        if text == "null" or text[0] in "[{":
            raise InvalidTask(
                f"payload: {key!r} must be a text, a number, true or false to be an argument"
            )
        values[key] = msgspec.json.decode(text, type=str) if text[0] == '"' else text
    return values
