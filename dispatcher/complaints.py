"""msgspec's validation errors, in the words of people who write TOML or JSON."""

import re
from collections.abc import Collection

import msgspec

from dispatcher.errors import did_you_mean

#: msgspec's names of types: what people call them, and the types.
_TYPES = {
    "int": ("an integer", int),
    "str": ("a text in quotes", str),
    "float": ("a number with a fraction", float),
    "bool": ("true or false", bool),
    "array": ("a list", list),
    "object": ("an object", dict),
    "null": ("null", type(None)),
}

#: Errors of parsing JSON.
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)

#: Escapes of a JSON text; `half` is a surrogate without the other half of its pair.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<half>u[dD][89a-fA-F]\w\w)|.)", re.DOTALL
)

#: msgspec's error for such a half.
_OF_A_HALF = re.compile("Input data was truncated|.*(surrogate pair|hex escape)")

#: The error for an invalid name of a queue or label.
NO_NAME = "is not a name; use up to 100 letters, digits and _ . : / @ + -"


def in_words(
    error: Exception,
    value: object = None,
    *,
    choices: Collection[str] = (),
    table: str = "an object",
    text: str | bytes = "",
) -> str:
    """Return the place of the mistake in the input, a colon, and what was expected there.

    `error` is one of `UNREADABLE`. `value` is the input, if the message may quote it; `choices` are
    the valid words, if only some are; `table` is the format's name for a mapping; `text` is the
    unparsed input.
    """
    if isinstance(error, UnicodeError):
        return "is not UTF-8; encode it so"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    complaint, _, path = str(error).partition(" - at `")
    if not isinstance(error, msgspec.ValidationError):
        return f"not JSON: {_syntax_error(complaint, text)}"
    path = path.removeprefix("key` in `").partition("`")[0]
    names, value = _place(path, complaint, value)
    if missing := re.fullmatch("Object missing required field `(.*)`", complaint):
        return ": ".join((*names, missing[1], "is missing"))
    if choice := re.fullmatch("Invalid (?:enum )?value '(.*)'", complaint):
        near = did_you_mean(choice[1], choices)
        expected = f"{choice[1]!r} is not {' or '.join(choices)}{near}"
    else:
        expected = _expected(complaint, value, table)
    return ": ".join((*names, expected))


def _syntax_error(complaint: str, text: str | bytes) -> str:
    if _OF_A_HALF.match(complaint) and (half := _half_in(text)):
        return f"\\{half} is half of a surrogate pair; write both halves, or the character itself"
    if complaint == "Input data was truncated":
        return "it ends too early"
    return complaint.removeprefix("JSON is malformed: ")


def _half_in(text: str | bytes) -> str | None:
    """Return the first escape of a JSON text that is half of a pair."""
    written = text if isinstance(text, str) else text.decode(errors="replace")
    return next((found["half"] for found in _ESCAPE.finditer(written) if found["half"]), None)


def _place(path: str, complaint: str, value: object) -> tuple[list[str], object]:
    """Return the path of a mistake inside a value, and the value there."""
    names = []
    for key, index in re.findall(r"\.([^.\[]+)|\[(.*?)\]", path):
        if key or index == "...":
            # msgspec does not name the key of a mapping with arbitrary keys.
            name = key or _culprit(complaint, value)
            names += [name] if name else []
            value = value.get(name) if isinstance(value, dict) else None
        else:
            names.append(f"item {int(index) + 1}")
            value = value[int(index)] if isinstance(value, list | tuple) else None
    return names, value


def _culprit(complaint: str, value: object) -> str:
    """Return the first key of a mapping whose value has the refused type."""
    got = complaint.rpartition(", got `")[2].rstrip("`")
    _, kind = _TYPES.get(got, ("", None))
    pairs = value.items() if isinstance(value, dict) else ()
    return next((str(key) for key, part in pairs if type(part) is kind), "")


def _expected(complaint: str, value: object, table: str) -> str:
    if " matching regex " in complaint:  # only names must match one
        return f"{value!r} {NO_NAME}"
    found = re.fullmatch("Expected `(.*?)`(.*?)(?:, got `(.*)`)?", complaint)
    if found is None:
        return complaint
    kinds, limits, got = found.groups()
    words = {name: word for name, (word, _) in _TYPES.items()} | {"object": table}
    wanted = {**words, "float": "a number"}
    kind_words = " or ".join(
        wanted.get(kind, kind) for kind in kinds.split(" | ") if kind != "null"
    )
    limits = limits.replace(" of length >= 1", " that is not empty")
    limits = limits.replace(" of length <= ", " no longer than ")
    return f"expected {kind_words}{limits}" + (f", got {words.get(got, got)}" if got else "")
