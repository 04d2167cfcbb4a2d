"""Reading the configuration file: every mistake at once, each with its line, key and remedy."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from dispatcher.complaints import NO_NAME, in_words
from dispatcher.config import durations, sizes
from dispatcher.config.durations import Milliseconds
from dispatcher.config.settings import NAME, Node, Section, Settings, Store
from dispatcher.config.sizes import Bytes
from dispatcher.errors import ConfigError, did_you_mean

#: The keys of [node] that say where state and sockets are.
DIRECTORIES = frozenset({"state_dir", "runtime_dir"})


class Mistake(NamedTuple):
    """What is wrong with one key of a section, or with the section where the key is empty.

    The section of a table with a name of its own is its whole path: `queues.builds`.
    """

    section: str
    key: str
    what: str


class Read(NamedTuple):
    """What a file says, where what is mistaken counts as left out."""

    settings: Settings
    mistakes: list[str]
    """A line for each."""
    says_where: bool
    """Whether no mistake can concern where the state directory, the sockets and the store are."""
    says_directories: bool
    """The same of the directories alone."""


def read(file: Path) -> Read:
    """Return what a file says, and every mistake.

    Raises `ConfigError` for a file that cannot be read, or is not TOML.
    """
    try:
        text = _text(file)
        table = tomllib.loads(text)
    except OSError as error:
        remedy = "let --config or $DISPATCHER_CONFIG name a file that this user may read"
        raise ConfigError(f"{file}: {error.strerror}; {remedy}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: not UTF-8; save the file in that encoding") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(_not_toml(file, error)) from error
    try:
        settings = msgspec.convert(table, Settings, dec_hook=_quantity)
        return Read(settings, [], says_where=True, says_directories=True)
    except msgspec.ValidationError:
        mistakes = [mistake for name, body in table.items() for mistake in _check(name, body)]
    good = _without(mistakes, table)
    told = [_located(file, text, mistake) for mistake in mistakes]
    says_where = not any(map(_concerns_places, mistakes))
    both = good["node"].keys() >= DIRECTORIES
    says_directories = both or not any(map(_concerns_directories, mistakes))
    settings = msgspec.convert(good, Settings, dec_hook=_quantity)
    return Read(settings, told, says_where, says_directories)


def _text(file: Path) -> str:
    """Return what a file holds, without the mark that some editors begin it with."""
    return file.read_bytes().decode("utf-8-sig")


def _concerns_places(mistake: Mistake) -> bool:
    """Say whether a mistake is in the sections of places, or may be what should stand in them."""
    section = mistake.section.partition(".")[0]
    places = {**_kinds(Node), **_kinds(Store)}
    others = (sections().keys() | named_tables().keys()) - {"node", "store"}
    return section not in others or mistake.key in places


def _concerns_directories(mistake: Mistake) -> bool:
    """Return whether a mistake is in a directory's place, or may be what should stand in it."""
    if mistake.section == "node":
        return mistake.key in DIRECTORIES or mistake.key not in _kinds(Node)
    known = mistake.section.partition(".")[0] in sections().keys() | named_tables().keys()
    return not known or mistake.key in DIRECTORIES


def _without(mistakes: Sequence[Mistake], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's tables without the keys that are mistaken, or else without the table."""
    wrong = {(mistake.section, mistake.key) for mistake in mistakes}

    def good(name: str, body: object, kind: type[Section]) -> Mapping[str, Any] | None:
        if not isinstance(body, dict) or (name, "") in wrong:
            return None
        keys = {key: value for key, value in body.items() if (name, key) not in wrong}
        try:
            msgspec.convert(keys, kind, dec_hook=_quantity)
        except msgspec.ValidationError:
            return None
        return keys

    found: dict[str, Any] = {}
    for name, kind in sections().items():
        found[name] = good(name, table.get(name), kind) or {}
    for name, kind in named_tables().items():
        own = table.get(name)
        tables = own.items() if isinstance(own, dict) else ()
        found[name] = {}
        for each, body in tables:
            if (keys := good(f"{name}.{each}", body, kind)) is not None:
                found[name][each] = keys
    return found


def _not_toml(file: Path, error: Exception) -> str:
    """Return what a parser complains of, its line and column where those of all mistakes stand."""
    if isinstance(error, RecursionError):
        return f"{file}: is nested too deeply; no key has a list within a list"
    if not isinstance(error, tomllib.TOMLDecodeError):  # Python reads no number of 5,000 digits
        return f"{file}: a number is too long; shorten it"
    complaint = str(error)
    what, _, place = complaint.rstrip(")").partition(" (at ")
    if at := re.fullmatch(r"line (\d+), column (\d+)", place):
        remedy = "; a text stands in quotes" if what == "Invalid value" else ""
        return f"{file}:{at[1]}:{at[2]}: not TOML: {what}{remedy}"
    return f"{file}: not TOML: {complaint}"


def given_by(file: Path) -> frozenset[tuple[str, str]]:
    """Return which keys, each with its section, a file that was read without mistakes gives."""
    table = tomllib.loads(_text(file))
    given = set()
    for section, body in table.items():
        given |= {(section, key) for key in body}
        if section in named_tables():
            given |= {(f"{section}.{name}", key) for name, keys in body.items() for key in keys}
    return frozenset(given)


@cache
def sections() -> dict[str, type[Section]]:
    """Return the section of each name that stands in the file as it is."""
    every = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    return {name: kind for name, kind in every.items() if name not in named_tables()}


@cache
def named_tables() -> dict[str, type[Section]]:
    """Return what stands under `[section.NAME]`, for sections whose tables their writer names."""
    every = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    return {name: get_args(kind)[1] for name, kind in every.items() if get_origin(kind) is dict}


def _check(name: str, body: object) -> Iterator[Mistake]:
    """Yield the mistakes of one entry of the file: its keys, values and combinations."""
    known = {**sections(), **named_tables()}
    if name not in known:
        what = "section" if isinstance(body, dict) else "key"
        yield Mistake(name, "", f"unknown {what}{_nearest(name, known)}")
    elif not isinstance(body, dict):
        header = f"[{name}.NAME]" if name in named_tables() else f"[{name}]"
        yield Mistake(name, "", f"is a section; write {header} on a line of its own")
    elif name in sections():
        yield from _check_table(name, body, sections()[name])
    else:
        for own, table in body.items():
            if not isinstance(table, dict):
                what = f"is no table; write [{name}.NAME], and under it the keys of that one"
                yield Mistake(name, own, what)
            elif not re.fullmatch(NAME, own):
                yield Mistake(f"{name}.{own}", "", NO_NAME)
            else:
                yield from _check_table(f"{name}.{own}", table, named_tables()[name])


def _check_table(name: str, body: Mapping[str, object], kind: type[Section]) -> Iterator[Mistake]:
    mistakes = list(_check_keys(name, body, kind))
    yield from mistakes
    wrong = {mistake.key for mistake in mistakes}
    good = {key: value for key, value in body.items() if key not in wrong}
    for field in msgspec.structs.fields(kind):
        if field.required and field.encode_name not in good:
            if field.encode_name not in wrong:
                example = f"write for example: {field.encode_name} = {example_of(field.type)}"
                yield Mistake(name, "", f"needs a {field.encode_name}; {example}")
            good[field.encode_name] = _example(field.type)
    try:
        msgspec.convert(good, kind, dec_hook=_quantity)
    except msgspec.ValidationError as error:
        for told in str(error).split("\n"):
            key, _, what = told.partition(": ")
            if not any(re.search(rf"\b{re.escape(other)}\b", what) for other in wrong):
                yield Mistake(name, key, what)


def _check_keys(name: str, body: Mapping[str, object], kind: type[Section]) -> Iterator[Mistake]:
    kinds = _kinds(kind)
    for key, value in body.items():
        if key not in kinds:
            yield Mistake(name, key, f"unknown key{_nearest(key, kinds)}")
            continue
        try:
            msgspec.convert(value, kinds[key], dec_hook=_quantity)
        except msgspec.ValidationError as error:
            yield Mistake(name, key, _explain(key, value, kinds[key], error))


def _kinds(section: type[Section]) -> dict[str, object]:
    """Return the type of each key of a section."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(section)}


def _quantity(kind: type, value: object) -> Milliseconds | Bytes:
    return sizes.parse(value) if kind is Bytes else durations.parse(value)


def _nearest(word: str, known: Mapping[str, object]) -> str:
    """Say which known word was meant: the same key of another section, or one alike."""
    named = {f"{name}.NAME": kind for name, kind in named_tables().items()}
    for section, kind in {**sections(), **named}.items():
        if word in _kinds(kind):
            return f"; it belongs under [{section}]"
    return did_you_mean(word, known) or f"; known here: {', '.join(known)}"


def _explain(key: str, value: object, kind: object, error: msgspec.ValidationError) -> str:
    """Return what is wrong with a value, and what would be right."""
    if choices := _choices(kind):
        if isinstance(value, dict):
            value = next((part for part in value.values() if part not in choices), value)
        listed = " or ".join(f'"{choice}"' for choice in choices)
        return f"{value!r} is not {listed}{did_you_mean(str(value), choices)}"
    told = in_words(error, value, table="a table")
    if not str(error).startswith("Expected ") or told.endswith(NO_NAME):
        return told
    return f"{told}; write for example: {key} = {example_of(kind)}"


def _choices(kind: object) -> list[str]:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return list(parts)
    return [choice for part in parts for choice in _choices(part)]


def example_of(kind: object) -> str:
    """Return a right value, as its type carries one, in the form of the file."""
    return written(_example(kind))


def _example(kind: object) -> Any:
    metas = (part for arg in (kind, *get_args(kind)) for part in get_args(arg))
    return next(
        part.examples[0] for part in metas if isinstance(part, msgspec.Meta) and part.examples
    )


def written(value: object) -> str:
    """Return a value in the form of the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and not isinstance(value, Milliseconds | Bytes):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, Mapping):
        entries = (f"{written(str(key))} = {written(part)}" for key, part in value.items())
        return f"{{ {', '.join(entries)} }}"
    # A basic string of TOML takes what a string of JSON does.
    return msgspec.json.encode(str(value)).decode()


def _located(file: Path, text: str, mistake: Mistake) -> str:
    """Return a mistake as one line: file, line where it is plain to see, key path, what."""
    path = f"{mistake.section}.{mistake.key}" if mistake.key else mistake.section
    line = _line(text, mistake)
    return f"{file}{f':{line}' if line else ''}: {path}: {mistake.what}"


def _line(text: str, mistake: Mistake) -> int | None:
    """Return the line that a mistake stands on; None where it is written in an unusual form."""
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[[^\[\]]+\]", line):
            section = _path(header[0])
            if section == ".".join(filter(None, (mistake.section, mistake.key))):
                return number
        elif entry := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            place = (section, entry[1]) if section else (entry[1], "")
            if place == (mistake.section, mistake.key):
                return number
    return None


def _path(header: str) -> str:
    """Return what a line like `[queues."a.b"]` begins, as the path of its mistakes."""
    names, table = [], tomllib.loads(header)
    while table:
        [(name, table)] = table.items()
        names.append(name)
    return ".".join(names)
