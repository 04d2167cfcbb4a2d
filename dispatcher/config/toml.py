"""The TOML of a configuration file: its text, its tables, and the lines of its keys."""

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from dispatcher.errors import ConfigError
from dispatcher.host import files, owner

#: Bytes of a configuration file.
MOST_BYTES = 1024 * 1024

#: Names in one dotted key. The parser's memory grows with their square: 116 MiB for 5,000.
MOST_NAMES = 32

#: A word of a key or value that may name a store.
NAMES_STORE = re.compile(r"(?<![a-z])(store|url)(?![a-z])|sqlite", re.IGNORECASE)

#: `MOST_NAMES` names and dots where a key may begin: a longer key follows.
_LONG_KEY = re.compile(
    rf"""(?:^|[\[{{,])[ \t]*
    (?:(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MOST_NAMES}}}""",
    re.MULTILINE | re.VERBOSE,
)

#: A name that needs no quotes.
_BARE = re.compile("[A-Za-z0-9_-]+")

#: The beginning of a line with a header, and of one with a key of one name.
_HEADER = re.compile(r"\s*\[[^\[\]]+\]")
_ENTRY = re.compile(
    r"""\s*(?:(?P<bare>[A-Za-z0-9_-]+)|"(?P<double>[^"\\]*)"|'(?P<single>[^']*)')\s*="""
)

#: A text, or a comment: quotes inside it begin no other text.
_TEXT = re.compile(
    r"""\"{3}(?:[^\\]|\\.)*?"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*""",
    re.DOTALL,
)


def text_of(file: Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises `ConfigError` when it cannot be read.
    """
    try:
        return files.read(file, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        remedy = "let --config or $DISPATCHER_CONFIG name a file that this user may read"
        if isinstance(error, PermissionError):
            remedy = f"{_remedy_of_closed(file)}{remedy}"
        raise ConfigError(f"{file}: {error.strerror}; {remedy}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: not UTF-8; save the file in that encoding") from error


def _remedy_of_closed(file: Path) -> str:
    if (closed := owner.misplaced(file)) is not None:
        below = "it" if closed == file else f"it is below {closed}, which"
        return (
            f"{below} is closed to this user: sudo {owner.change_owner(os.geteuid(), closed)}; or "
        )
    if (reader := owner.intended_reader(file)) is not None:
        return f"it is for user {owner.name_of(reader)}: {owner.sudo(reader)} dispatcher ...; or "
    return ""


def tables(file: Path, text: str) -> dict[str, Any]:
    """Return the tables of a file's text. Raises `ConfigError` when it is not TOML."""
    if long := _LONG_KEY.search(text):
        line = text.count("\n", 0, long.end()) + 1
        raise ConfigError(f"{file}:{line}: a key of more than {MOST_NAMES} names; none has so many")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(_not_toml(file, text, error)) from error


def _not_toml(file: Path, text: str, error: Exception) -> str:
    """Return a parser's complaint with file, line and column first, as in all mistakes."""
    if isinstance(error, RecursionError):
        return f"{file}: is nested too deeply; no key has a list within a list"
    if isinstance(error, MemoryError):
        return f"{file}: takes more memory than there is; shorten it"
    if not isinstance(error, tomllib.TOMLDecodeError):  # a number of 5,000 digits
        return f"{file}: a number is too long; shorten it"
    complaint = str(error)
    what, _, place = complaint.rstrip(")").partition(" (at ")
    if at := re.fullmatch(r"line (\d+), column (\d+)", place):
        if what.startswith("Cannot declare ") and (twice := _twice(text, int(at[1]))):
            return f"{file}:{at[1]}:{at[2]}: not TOML: {twice}"
        remedy = "; put texts in quotes" if what == "Invalid value" else ""
        return f"{file}:{at[1]}:{at[2]}: not TOML: {what}{remedy}"
    return f"{file}: not TOML: {complaint}"


def _twice(text: str, number: int) -> str | None:
    """Return what is wrong with a header whose table is written before; None: it is not found."""
    before = text.split("\n")
    if (path := _path(before[number - 1])) is None:
        return None
    if (first := lines("\n".join(before[: number - 1])).get(path)) is None:
        return None
    return f"line {first} has the table [{shown(path)}] already; write the keys there"


def lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the first line of each section's and key's path, if written in a usual form."""
    section: tuple[str, ...] = ()
    found: dict[tuple[str, ...], int] = {}
    # Lines end at "\n" alone: str.splitlines knows others, which a comment may hold.
    for number, line in enumerate(_TEXT.sub(_emptied, text).split("\n"), start=1):
        if header := _HEADER.match(line):
            if (path := _path(header[0])) is not None:
                section = path
                found.setdefault(section, number)
        elif entry := _ENTRY.match(line):
            key = entry["bare"] or entry["double"] or entry["single"] or ""
            found.setdefault((*section, key), number)
    return found


def _emptied(text: re.Match[str]) -> str:
    """Return the line ends of a multi-line text, whose lines may look like keys; others as is."""
    return "\n" * text[0].count("\n") if text[0].startswith(('"""', "'''")) else text[0]


def _path(header: str) -> tuple[str, ...] | None:
    """Return the path of a header like `[queues."a.b"]`; None for any other line."""
    try:
        table = tomllib.loads(header)
    except ValueError:  # a list in a list
        return None
    names: list[str] = []
    while table:
        [(name, table)] = table.items()
        names.append(name)
    return tuple(names)


def shown(path: Sequence[str]) -> str:
    """Return a path in the form of the file: names with other characters than usual in quotes."""
    return ".".join(
        name if _BARE.fullmatch(name) else msgspec.json.encode(name).decode() for name in path
    )
