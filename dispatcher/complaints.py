"""What msgspec complains of, in the words of somebody who writes TOML or JSON."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from dispatcher.errors import did_you_mean

#: What msgspec calls a type: what people call it, and the type itself.
_TYPES = {
    "int": ("an integer", int),
    "str": ("a text in quotes", str),
    "float": ("a number with a fraction", float),
    "bool": ("true or false", bool),
    "array": ("a list", list),
    "object": ("an object", dict),
    "null": ("null", type(None)),
}

#: What reading JSON raises.
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)

#: Escapes of a JSON text; `half` is one of a surrogate that has no other one beside it.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<half>u[dD][89a-fA-F]\w\w)|.)", re.DOTALL
)

#: What msgspec complains of where such a half stands.
_OF_A_HALF = re.compile("Input data was truncated|.*(surrogate pair|hex escape)")

#: What a name of a queue or label may be.
NO_NAME = "is not a name; use up to 100 letters, digits and _ . : / @ + -"


def in_words(
    error: Exception,
    value: object = None,
    *,
    choices: Collection[str] = (),
    table: str = "an object",
    text: str | bytes = "",
) -> str:
    """Return what is wrong: where inside of what was given, a colon, and what was expected.

    `value` is what was given, if it is to be named; `choices` are the words that would have been
    right where only some are; `table` is what a mapping is called there; `text` is what was read,
    where that may be anybody's. The error is one of those that reading JSON raises: `UNREADABLE`.
    """
    if isinstance(error, UnicodeError):
        return "is not UTF-8; encode it so"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    complaint, _, path = str(error).partition(" - at `")
    if not isinstance(error, msgspec.ValidationError):
        return f"not JSON: {_of_syntax(complaint, text)}"
    path = path.removeprefix("key` in `").partition("`")[0]
    names, value = _place(path, complaint, value)
    if missing := re.fullmatch("Object missing required field `(.*)`", complaint):
        return ": ".join((*names, missing[1], "is missing"))
    if choice := re.fullmatch("Invalid (?:enum )?value '(.*)'", complaint):
        near = did_you_mean(choice[1], choices)
        told = f"{choice[1]!r} is not {' or '.join(choices)}{near}"
    else:
        told = _expected(complaint, value, table)
    return ": ".join((*names, told))


def _of_syntax(complaint: str, text: str | bytes) -> str:
    if _OF_A_HALF.match(complaint) and (half := _half_in(text)):
        return f"\\{half} is half of a surrogate pair; write both halves, or the character itself"
    if complaint == "Input data was truncated":
        return "it ends too early"
    return complaint.removeprefix("JSON is malformed: ")


def _half_in(text: str | bytes) -> str | None:
    """Return the first escape in a JSON text that is half of a character."""
    written = text if isinstance(text, str) else text.decode(errors="replace")
    return next((found["half"] for found in _ESCAPE.finditer(written) if found["half"]), None)


def _place(path: str, complaint: str, value: object) -> tuple[list[str], object]:
    """Return the names of what leads to a mistake inside a value, and what stands there."""
    names = []
    for key, index in re.findall(r"\.([^.\[]+)|\[(.*?)\]", path):
        if key or index == "...":
            # Of a mapping whose keys are anybody's it does not say which one.
            name = key or _culprit(complaint, value)
            names += [name] if name else []
            value = value.get(name) if isinstance(value, dict) else None
        else:
            names.append(f"item {int(index) + 1}")
            value = value[int(index)] if isinstance(value, list | tuple) else None
    return names, value


def _culprit(complaint: str, value: object) -> str:
    """Return the first key of a mapping whose value is of the type that was complained of."""
    got = complaint.rpartition(", got `")[2].rstrip("`")
    _, kind = _TYPES.get(got, ("", None))
    pairs = value.items() if isinstance(value, dict) else ()
    return next((str(key) for key, part in pairs if type(part) is kind), "")


def _expected(complaint: str, value: object, table: str) -> str:
    if " matching regex " in complaint:  # only names have to match one
        return f"{value!r} {NO_NAME}"
    found = re.fullmatch("Expected `(.*?)`(.*?)(?:, got `(.*)`)?", complaint)
    if found is None:
        return complaint
    kinds, limits, got = found.groups()
    words = {name: word for name, (word, _) in _TYPES.items()} | {"object": table}
    wanted = {**words, "float": "a number"}
    told = " or ".join(wanted.get(kind, kind) for kind in kinds.split(" | ") if kind != "null")
    limits = limits.replace(" of length >= 1", " that is not empty")
    limits = limits.replace(" of length <= ", " no longer than ")
    return f"expected {told}{limits}" + (f", got {words.get(got, got)}" if got else "")
