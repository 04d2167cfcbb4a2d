"""Log events as records of systemd's journal: a field for each key, and a message for people."""

import re
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from dispatcher.logs.journald import PRIORITY, field

#: The keys that name a run for people, in this order.
WHOM = ("task_id", "run_id", "attempt")

#: Keys whose field is not `DISPATCHER_` and the key in capitals. A run's uid has the same name in
#: both logs and in its worker's environment.
RENAMED = {"uid": "DISPATCHER_RUN", "level": "PRIORITY"}

#: Keys that a message leaves out: they are fields, and the journal shows time and priority.
NOT_SHOWN = frozenset({"timestamp", "level", "event", "sequence", "node"})

#: Characters of a field's name that journald takes: journal_field_valid of sd_journal_sendv.
_MOST_OF_NAME = 64

#: Matches a value that needs no quotes in a message.
_is_word = re.compile(r"[!#-&(-<>-~]+").fullmatch

_encode = msgspec.json.Encoder(enc_hook=str).encode


@cache
def name_of(key: str) -> str:
    """Return the name of a key's field."""
    if (renamed := RENAMED.get(key)) is not None:
        return renamed
    return re.sub(r"[^A-Z0-9_]", "_", f"DISPATCHER_{key.upper()}")[:_MOST_OF_NAME]


def arranged(facts: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the facts for people: first the keys that name a run, and no None."""
    for name in WHOM:
        if facts.get(name) is not None:
            yield name, facts[name]
    for name, value in facts.items():
        if value is not None and name not in WHOM:
            yield name, value


def record(line: Mapping[str, object], *, identifier: str) -> bytes:
    """Return a line of a log, with its `event` and `level`, as a record for journald."""
    message_parts = [str(line["event"])]
    beneath = []
    short = [f"SYSLOG_IDENTIFIER={identifier}\nPRIORITY={PRIORITY[str(line['level'])]}"]
    long = b""
    for key, value in arranged(line):
        text = _text(value)
        if "\n" in text:
            long += field(name_of(key).encode(), text.encode(errors="backslashreplace"))
        elif key != "level":
            short.append(f"{name_of(key)}={text}")
        if key in NOT_SHOWN:
            continue
        if _has_lines(text):
            beneath.append(text)
        else:
            message_parts.append(_pair(key, text))
    message = "\n".join((" ".join(message_parts), *beneath))
    if beneath:
        long += field(b"MESSAGE", message.encode(errors="backslashreplace"))
    else:
        short.append(f"MESSAGE={message}")
    return "\n".join((*short, "")).encode(errors="backslashreplace") + long


def in_a_line(value: object) -> str:
    """Return a text with what a terminal would obey escaped."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in _text(value))


def pair(key: str, value: object) -> str:
    """Return a fact as a message shows it, on one line."""
    return _pair(key, _text(value))


def _pair(key: str, text: str) -> str:
    return f"{key}={text}" if _is_word(text) else f"{key}={text!r}"


def _text(value: object) -> str:
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return value
    try:
        return _encode(value).decode()
    except (UnicodeError, TypeError):  # bytes of a foreign encoding, keys that are not texts
        return repr(value)


def _has_lines(text: str) -> bool:
    """Return whether a text is readable lines, as a traceback is."""
    return "\n" in text and all(line.isprintable() for line in text.splitlines())
