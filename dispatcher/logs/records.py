"""Log events as records of systemd's journal: a field for each key, and a message for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from dispatcher.logs.journald import PRIORITY, field

#: What names a run for people, in this order.
WHOM = ("task_id", "run_id", "attempt")

#: Keys whose field has another name than `DISPATCHER_` and the key in capitals. A run's uid has the
#: same name in both logs, and in its worker's environment.
RENAMED = {"uid": "DISPATCHER_RUN", "level": "PRIORITY"}

#: Keys that a message leaves out: the journal shows time and priority, and all are fields.
_NOT_SHOWN = frozenset({"timestamp", "level", "event", "sequence", "node"})

#: Characters of a field's name that journald takes: sd_journal_sendv, journal_field_valid.
_MOST_OF_NAME = 64

#: Whether a value can stand in a message without quotes.
_is_word = re.compile(r"[!#-&(-<>-~]+").fullmatch

_encode = msgspec.json.Encoder(enc_hook=str).encode


@cache
def name_of(key: str) -> str:
    """Return the name of the field that has the value of a key."""
    if (renamed := RENAMED.get(key)) is not None:
        return renamed
    return re.sub(r"[^A-Z0-9_]", "_", f"DISPATCHER_{key.upper()}")[:_MOST_OF_NAME]


def arranged(facts: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield what people are shown: first whom it happened to, and nothing that says nothing."""
    for name in WHOM:
        if facts.get(name) is not None:
            yield name, facts[name]
    for name, value in facts.items():
        if value is not None and name not in WHOM:
            yield name, value


def record(line: Mapping[str, object], *, identifier: str) -> bytes:
    """Return a line of a log, with its `event` and `level`, as journald takes it."""
    said = [str(line["event"])]
    beneath = []
    short = [f"SYSLOG_IDENTIFIER={identifier}\nPRIORITY={PRIORITY[str(line['level'])]}"]
    long = b""
    for key, value in arranged(line):
        text = str(value) if type(value) is int else _text(value)
        if "\n" in text:
            long += field(name_of(key).encode(), text.encode(errors="backslashreplace"))
        elif key != "level":
            short.append(f"{name_of(key)}={text}")
        if key in _NOT_SHOWN:
            continue
        if _is_word(text):
            said.append(f"{key}={text}")
        elif _has_lines(text):
            beneath.append(text)
        else:
            said.append(f"{key}={text!r}")
    message = "\n".join((" ".join(said), *beneath))
    if beneath:
        long += field(b"MESSAGE", message.encode(errors="backslashreplace"))
    else:
        short.append(f"MESSAGE={message}")
    return "\n".join((*short, "")).encode(errors="backslashreplace") + long


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return _encode(value).decode()
    except (UnicodeError, TypeError):  # bytes of a foreign encoding, keys that are no text
        return repr(value)


def _has_lines(text: str) -> bool:
    """Whether a text is lines that people can read, as a traceback is."""
    return "\n" in text and all(line.isprintable() for line in text.splitlines())
