"""Reading the configuration file: every mistake at once, each with its line, key and remedy."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin

import msgspec

from dispatcher import durations
from dispatcher.durations import Milliseconds
from dispatcher.errors import ConfigError, did_you_mean
from dispatcher.settings import Section, Settings

#: What msgspec calls a type, in the words of somebody who writes TOML.
_WORDS = {
    "int": "an integer",
    "str": "a text in quotes",
    "float": "a number with a fraction",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


class Mistake(NamedTuple):
    """What is wrong with one key of a section, or with the section where the key is empty."""

    section: str
    key: str
    what: str


def read(file: Path) -> Settings:
    """Return what a file says. Raises `ConfigError`, one line for each mistake."""
    try:
        text = file.read_bytes().decode("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; name a file that can be read") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: not UTF-8; save the file in that encoding") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    try:
        return msgspec.convert(table, Settings, dec_hook=_duration)
    except msgspec.ValidationError:
        mistakes = [mistake for name, body in table.items() for mistake in _check(name, body)]
        told = "\n".join(_located(file, text, mistake) for mistake in mistakes)
        raise ConfigError(told) from None


def given_by(file: Path) -> frozenset[tuple[str, str]]:
    """Return which keys, each with its section, a file that was read without mistakes gives."""
    table = tomllib.loads(file.read_bytes().decode("utf-8"))
    return frozenset((section, key) for section, body in table.items() for key in body)


@cache
def _sections() -> dict[str, type[Section]]:
    """Return the section of each name."""
    return {field.name: field.type for field in msgspec.structs.fields(Settings)}


def _check(name: str, body: object) -> Iterator[Mistake]:
    """Yield the mistakes of one entry of the file: keys, else values, else combinations."""
    if name not in _sections():
        what = "section" if isinstance(body, dict) else "key"
        yield Mistake(name, "", f"unknown {what}{_nearest(name, _sections())}")
    elif not isinstance(body, dict):
        yield Mistake(name, "", f"is a section; write [{name}] on a line of its own")
    elif mistakes := list(_check_keys(name, body)):
        yield from mistakes
    else:
        try:
            msgspec.convert(body, _sections()[name], dec_hook=_duration)
        except msgspec.ValidationError as error:
            key, _, what = str(error).partition(": ")
            yield Mistake(name, key, what)


def _check_keys(name: str, body: Mapping[str, object]) -> Iterator[Mistake]:
    kinds = _kinds(name)
    for key, value in body.items():
        if key not in kinds:
            yield Mistake(name, key, f"unknown key{_nearest(key, kinds)}")
            continue
        try:
            msgspec.convert(value, kinds[key], dec_hook=_duration)
        except msgspec.ValidationError as error:
            yield Mistake(name, key, _explain(key, value, kinds[key], str(error)))


def _kinds(section: str) -> dict[str, object]:
    """Return the type of each key of a section."""
    fields = msgspec.structs.fields(_sections()[section])
    return {field.encode_name: field.type for field in fields}


def _duration(_kind: type, value: object) -> Milliseconds:
    return durations.parse(value)


def _nearest(word: str, known: Mapping[str, object]) -> str:
    """Say which known word was meant: the same key of another section, or one alike."""
    for section in _sections():
        if word in _kinds(section):
            return f"; it belongs under [{section}]"
    return did_you_mean(word, known) or f"; known here: {', '.join(known)}"


def _explain(key: str, value: object, kind: object, complaint: str) -> str:
    """Return what is wrong with a value, and what would be right."""
    if choices := _choices(kind):
        listed = " or ".join(f'"{choice}"' for choice in choices)
        return f"{value!r} is not {listed}{did_you_mean(str(value), choices)}"
    if not complaint.startswith("Expected "):
        return complaint
    plain = re.sub(r"`(\w+)( \| null)?`", lambda found: _WORDS.get(found[1], found[1]), complaint)
    return f"{plain[0].lower()}{plain[1:]}; write for example: {key} = {example_of(kind)}"


def _choices(kind: object) -> list[str]:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return list(parts)
    return [choice for part in parts for choice in _choices(part)]


def example_of(kind: object) -> str:
    """Return a right value, as its type carries one, in the form of the file."""
    metas = (part for arg in (kind, *get_args(kind)) for part in get_args(arg))
    example = next(
        part.examples[0] for part in metas if isinstance(part, msgspec.Meta) and part.examples
    )
    return f'"{example}"' if isinstance(example, str) else str(example)


def _located(file: Path, text: str, mistake: Mistake) -> str:
    """Return a mistake as one line: file, line where it is plain to see, key path, what."""
    path = f"{mistake.section}.{mistake.key}" if mistake.key else mistake.section
    line = _line(text, mistake)
    return f"{file}{f':{line}' if line else ''}: {path}: {mistake.what}"


def _line(text: str, mistake: Mistake) -> int | None:
    """Return the line that a mistake stands on; None where it is written in an unusual form."""
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*\"?([\w-]+)\"?\s*\]", line):
            section = header[1]
            if section == mistake.section and not mistake.key:
                return number
        elif entry := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            place = (section, entry[1]) if section else (entry[1], "")
            if place == (mistake.section, mistake.key):
                return number
    return None
