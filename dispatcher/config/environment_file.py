"""The variables that profiles get from files: `NAME=VALUE` lines, as in systemd's EnvironmentFile.

Their values are secrets: they exist in the file, the daemon's memory and the worker, and no message
repeats one.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from dispatcher.config import limits
from dispatcher.config.config import Config
from dispatcher.host import files

#: Bytes of one file: what one string of an environment may have.
MOST_BYTES = 128 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK = re.compile(r"[ \t\r]*(?:[#;][^\n]*)?(?:\n|\Z)")
_ENTRY = re.compile(
    r"""(?P<name>[^=\n]*+)=[ \t]*+
    (?:'(?P<single>[^']*+)'|"(?P<double>(?:[^"\\]|\\.)*+)"|(?P<plain>[^\n'"\\]*+))
    [ \t\r]*+(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r'\\(["\\$`])|\\\n')


class Variables(NamedTuple):
    """What the tasks of profiles get from files, and which profiles cannot be used."""

    of: Mapping[str, Mapping[str, str]]
    """The variables of each profile that can be used: none of one without a file."""
    unusable: Mapping[str, str]
    """Of each other profile a line: its mistake, or why its file cannot be read."""
    unread: Sequence[str]
    """A line for each file that cannot be read now."""


def read_all(config: Config, before: Variables | None = None) -> Variables:
    """Return the variables of each profile; one with a mistake now keeps those of before."""
    found: dict[str, Mapping[str, str]] = {}
    wrong = {name: lines[0] for name, lines in config.mistaken_profiles.items()}
    unread = []
    for name, profile in config.profiles.items():
        if name not in config.mistaken_profiles:
            try:
                found[name] = {} if profile.env_file is None else read(profile.env_file)
            except ValueError as error:
                wrong[name] = f"{config.file}: profiles.{name}.env_file: {error}"
                unread.append(wrong[name])
    kept = {} if before is None else {name: before.of[name] for name in wrong if name in before.of}
    unusable = {name: why for name, why in wrong.items() if name not in kept}
    return Variables({**found, **kept}, unusable, unread)


def check(named: str) -> None:
    """Raise ValueError as `read` does; an unchanged file is read once in this process."""
    try:
        found = Path(named.removeprefix("-")).stat()
    except OSError:
        read(named)
    else:
        _read_once(named, (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns))


@lru_cache(maxsize=64)
def _read_once(named: str, _version: tuple[int, ...]) -> None:
    read(named)


def read(named: str) -> dict[str, str]:
    """Return the variables of a file; none if it is missing and its name begins with `-`.

    Raises ValueError, which names file, line, mistake and remedy, and no value.
    """
    path = Path(named.removeprefix("-"))
    try:
        text = files.read(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        if named.startswith("-"):
            return {}
        raise ValueError(f"{path} is missing; make it, or write -{path} if it may be") from None
    except files.Unfit as error:
        remedy = f"name a regular file of at most {MOST_BYTES} bytes"
        raise ValueError(f"{path} {error.strerror}; {remedy}") from None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}; let the daemon read it"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; encode it so") from None
    return _parse(path, text)


def _parse(path: Path, text: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    at, line = 0, 1
    while at < len(text):
        if blank := _BLANK.match(text, at):
            at, line = blank.end(), line + 1
            continue
        where = f"{path}:{line}"
        entry = _ENTRY.match(text, at)
        if entry is None:
            raise ValueError(f"{where}: {_mistake(text[at:].partition(chr(10))[0])}")
        name = entry["name"].strip(" \t")
        _check(where, name, text[entry.start() : entry.end()])
        variables[name] = _value(entry)
        at, line = entry.end(), line + entry[0].count("\n")
    return variables


def _value(entry: re.Match[str]) -> str:
    if entry["double"] is not None:
        return _ESCAPE.sub(lambda found: found[1] or "", entry["double"])
    return str(entry["plain"].rstrip(" \t\r") if entry["single"] is None else entry["single"])


def _check(where: str, name: str, line: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{where}: the text before = is not a name of a variable; use letters,"
            " digits and _, and no export"
        )
    try:
        limits.check_variable(name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if "\0" in line:
        raise ValueError(f"{where}: {name} holds a NUL character, which no process can be given")


def _mistake(line: str) -> str:
    if "=" not in line:
        return "has no =; write NAME=VALUE, or begin a comment with #"
    value = line.partition("=")[2].strip()
    if value[:1] in ("'", '"'):
        return "the quote does not end, or something follows it; quote the whole value once"
    return "a value without quotes has a quote or \\; put the whole value in '...'"
