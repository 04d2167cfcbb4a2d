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
    fields = [b"SYSLOG_IDENTIFIER=%b\nPRIORITY=%d\n" % (identifier.encode(), _priority(line))]
    for key, value in arranged(line):
        if key == "level":
            continue
        text = _text(value)
        fields.append(field(name_of(key).encode(), text.encode(errors="backslashreplace")))
        if key in _NOT_SHOWN:
            continue
        if _has_lines(text):
            beneath.append(text)
        else:
            said.append(f"{key}={_shown(text)}")
    message = "\n".join((" ".join(said), *beneath))
    return field(b"MESSAGE", message.encode(errors="backslashreplace")) + b"".join(fields)


def _priority(line: Mapping[str, object]) -> int:
    return PRIORITY[str(line["level"])]


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


def _shown(text: str) -> str:
    return text if text.isprintable() and text and not re.search(r"[\s\"'=]", text) else repr(text)
