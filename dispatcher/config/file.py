"""Read the configuration file: every mistake at once, each with its line, key and remedy."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from dispatcher.complaints import NO_NAME, in_words
from dispatcher.config import reach, toml
from dispatcher.config.reach import DIRECTORIES, Mistake
from dispatcher.config.section import NAME, Section
from dispatcher.config.settings import Settings
from dispatcher.config.tables import key_types, named_tables, sections
from dispatcher.errors import ConfigError, did_you_mean
from dispatcher.quantities import durations, sizes
from dispatcher.quantities.durations import Milliseconds
from dispatcher.quantities.sizes import Bytes

#: The most mistakes that are explained.
MOST_MISTAKES = 100


class Read(NamedTuple):
    """The settings of a file; a mistaken key counts as left out, and so does a mistaken profile."""

    settings: Settings
    mistakes: list[str]
    """A line for each."""
    profiles: dict[str, list[str]]
    """Those lines of them that concern one profile alone, by profile."""
    places_certain: bool
    """Whether no mistake may concern the state directory, the sockets or the store."""
    directories_certain: bool
    """The same for the directories alone."""


def read(file: Path) -> Read:
    """Return the settings of a file, and every mistake.

    Raises `ConfigError` for a file that cannot be read, is not TOML, or has more mistakes than are
    explained.
    """
    text = toml.text_of(file)
    table = toml.tables(file, text)
    try:
        settings = msgspec.convert(table, Settings, dec_hook=_quantity)
        return Read(settings, [], {}, places_certain=True, directories_certain=True)
    except msgspec.ValidationError:
        every = (mistake for name, body in table.items() for mistake in _check(name, body))
        mistakes = list(islice(every, MOST_MISTAKES + 1))
    lines = _located(file, text, mistakes[:MOST_MISTAKES])
    if len(mistakes) > MOST_MISTAKES:
        raise ConfigError("\n".join((*lines, f"{file}: more than {MOST_MISTAKES} mistakes")))
    profiles: dict[str, list[str]] = {}
    for mistake, line in zip(mistakes, lines, strict=True):
        if (profile := reach.profile_of(mistake, table)) is not None:
            profiles.setdefault(profile, []).append(line)
    good = _without(mistakes, table)
    good["profiles"] = {n: keys for n, keys in good["profiles"].items() if n not in profiles}
    both = good["node"].keys() >= DIRECTORIES
    unclear = [one for one in mistakes if not reach.is_stray_key(one, table)]
    directories = both or not any(map(reach.concerns_directories, unclear))
    places = directories and not any(reach.concerns_store(one, table) for one in unclear)
    settings = msgspec.convert(good, Settings, dec_hook=_quantity)
    return Read(settings, lines, profiles, places, directories)


def _without(mistakes: Sequence[Mistake], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's tables without the mistaken keys, or without a table that is still wrong."""
    wrong = {(mistake.section, mistake.key) for mistake in mistakes}

    def good(body: object, kind: type[Section], *section: str) -> Mapping[str, Any] | None:
        if not isinstance(body, dict) or (section, None) in wrong:
            return None
        keys = {key: value for key, value in body.items() if (section, key) not in wrong}
        try:
            msgspec.convert(keys, kind, dec_hook=_quantity)
        except msgspec.ValidationError:
            return None
        return keys

    found: dict[str, Any] = {}
    for name, kind in sections().items():
        found[name] = good(table.get(name), kind, name) or {}
    for name, kind in named_tables().items():
        own = table.get(name)
        tables = own.items() if isinstance(own, dict) else ()
        found[name] = {}
        for each, body in tables:
            if (keys := good(body, kind, name, each)) is not None:
                found[name][each] = keys
    return found


def given_by(file: Path) -> frozenset[tuple[str, str]]:
    """Return the keys, each with its section, of a file without mistakes but in profiles."""
    given = set()
    for section, body in toml.tables(file, toml.text_of(file)).items():
        given |= {(section, key) for key in body}
        named = body.items() if section in named_tables() else ()
        tables = [(name, keys) for name, keys in named if isinstance(keys, dict)]
        given |= {(f"{section}.{name}", key) for name, keys in tables for key in keys}
    return frozenset(given)


def _check(name: str, body: object) -> Iterator[Mistake]:
    """Yield the mistakes of one entry of the file: its keys, values and combinations."""
    known = {**sections(), **named_tables()}
    if name not in known:
        what = "section" if isinstance(body, dict) else "key"
        quoted = name.partition(".")[0] in known
        remedy = "; write it without quotes" if quoted else _nearest(name, known)
        yield Mistake((), name, f"unknown {what}{remedy}")
    elif not isinstance(body, dict):
        header = f"[{name}.NAME]" if name in named_tables() else f"[{name}]"
        yield Mistake((name,), None, f"is a section; write {header} on a line of its own")
    elif name in sections():
        yield from _check_table((name,), body, sections()[name])
    else:
        for own, table in body.items():
            if not isinstance(table, dict):
                what = f"is not a table; write [{name}.NAME], and under it the keys of that one"
                yield Mistake((name,), own, what)
            elif not re.fullmatch(NAME, own):
                yield Mistake((name, own), None, NO_NAME)
            else:
                yield from _check_table((name, own), table, named_tables()[name])


def _check_table(
    section: tuple[str, ...], body: Mapping[str, object], kind: type[Section]
) -> Iterator[Mistake]:
    mistakes = list(_check_keys(section, body, kind))
    yield from mistakes
    wrong = {mistake.path[-1] for mistake in mistakes}
    good = {key: value for key, value in body.items() if key not in wrong}
    for field in msgspec.structs.fields(kind):
        if field.required and field.encode_name not in good:
            if field.encode_name not in wrong:
                example = f"write for example: {field.encode_name} = {example_of(field.type)}"
                yield Mistake(section, None, f"needs a {field.encode_name}; {example}")
            good[field.encode_name] = _example(field.type)
    try:
        msgspec.convert(good, kind, dec_hook=_quantity)
    except msgspec.ValidationError as error:
        for line in str(error).split("\n"):
            key, _, what = line.partition(": ")
            if not any(re.search(rf"\b{re.escape(other)}\b", what) for other in wrong):
                yield Mistake(section, key, what)


def _check_keys(
    section: tuple[str, ...], body: Mapping[str, object], kind: type[Section]
) -> Iterator[Mistake]:
    kinds = key_types(kind)
    for key, value in body.items():
        if key not in kinds:
            yield Mistake(section, key, f"unknown key{_nearest(key, kinds)}")
            continue
        try:
            msgspec.convert(value, kinds[key], dec_hook=_quantity)
        except msgspec.ValidationError as error:
            yield Mistake(section, key, _explain(key, value, kinds[key], error))


def _quantity(kind: type, value: object) -> Milliseconds | Bytes:
    return sizes.parse(value) if kind is Bytes else durations.parse(value)


def _nearest(word: str, known: Mapping[str, object]) -> str:
    """Return the word that was meant: the same key in another section, or a similar one."""
    named = {f"{name}.NAME": kind for name, kind in named_tables().items()}
    for section, kind in {**sections(), **named}.items():
        if word in key_types(kind):
            return f"; it belongs under [{section}]"
    return did_you_mean(word, known) or f"; known here: {', '.join(known)}"


def _explain(key: str, value: object, kind: object, error: msgspec.ValidationError) -> str:
    """Return what is wrong with a value, and an example of a right one."""
    if choices := _choices(kind):
        if isinstance(value, dict):
            value = next((part for part in value.values() if part not in choices), value)
        listed = " or ".join(f'"{choice}"' for choice in choices)
        return f"{value!r} is not {listed}{did_you_mean(str(value), choices)}"
    wrong = in_words(error, value, table="a table")
    if not str(error).startswith("Expected ") or wrong.endswith(NO_NAME):
        return wrong
    return f"{wrong}; write for example: {key} = {example_of(kind)}"


def _choices(kind: object) -> list[str]:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return list(parts)
    return [choice for part in parts for choice in _choices(part)]


def example_of(kind: object) -> str:
    """Return the example that a type carries, in the form of the file."""
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


def _located(file: Path, text: str, mistakes: Sequence[Mistake]) -> list[str]:
    """Return each mistake as one line: file, line number if known, key path, what is wrong."""
    lines = toml.lines(text)
    located = []
    for mistake in mistakes:
        line = f":{lines[mistake.path]}" if mistake.path in lines else ""
        located.append(f"{file}{line}: {toml.shown(mistake.path)}: {mistake.what}")
    return located
