"""The reference of the configuration file, for people and editors: made from `config.settings`.

The text of a key is its docstring there: there is no second copy.
"""

import ast
import inspect
import os
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from dispatcher.config.config import Config, find
from dispatcher.config.file import example_of, given_by, written
from dispatcher.config.places import RUNTIME, STATE, STORE
from dispatcher.config.section import NAME, Section
from dispatcher.config.settings import Settings
from dispatcher.config.tables import named_tables, sections
from dispatcher.quantities import durations, sizes
from dispatcher.quantities.durations import Milliseconds
from dispatcher.quantities.sizes import Bytes

#: Columns of a comment in the file that is printed.
_WIDTH = 96

#: The name of a named table, in the reference.
_NAME = "NAME"

#: The keys of the file that is installed with the units. systemd passes these directories to the
#: units alone, and an operator's command line must mean the same store.
PACKAGED: Mapping[str, str] = {
    "state_dir": '"/var/lib/dispatcher"',
    "runtime_dir": '"/run/dispatcher"',
    "mode": '"external"',
    "environment": '"clean"',
    "allow_commands": "false",
}

_DURATION = {"type": "string", "pattern": f"^{durations.FORM}$"}

_SIZE = {"type": "string", "pattern": f"^{sizes.FORM}$"}


_FILE = """\
# The configuration of the dispatcher. Every key is here with its default, or with an example if
# the default is derived. Durations carry their unit: "200ms", "15m", "2h30m", "30d".
# Try a change with: dispatcher check-config --config THIS_FILE"""


class Key(NamedTuple):
    section: str
    name: str
    field: str
    """The attribute of the section's type."""
    text: str
    default: str | None
    """In the form of the file; None if it is derived."""
    example: str


def every_key() -> Iterator[Key]:
    """Yield every key in the order of the file."""
    for section, kind in _types_by_header().items():
        texts = _texts(kind)
        for field in msgspec.structs.fields(kind):
            yield Key(
                section=section,
                name=field.encode_name,
                field=field.name,
                text=_flat(texts[field.name]),
                default=None if _is_derived(field) else written(field.default),
                example=example_of(field.type),
            )


def _types_by_header() -> dict[str, type[Section]]:
    kinds: dict[str, type[Section]] = {}
    for field in msgspec.structs.fields(Settings):
        if field.name in named_tables():
            kinds[f"{field.name}.{_NAME}"] = named_tables()[field.name]
        else:
            kinds[field.name] = sections()[field.name]
    return kinds


def section_text(name: str) -> str:
    return _flat(inspect.getdoc(_types_by_header()[name]) or "")


def commented_file(given: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a configuration file with every key, explained, and commented out unless `given`.

    `given`: values in the form of the file, by the key's name.
    """
    lines = [_FILE]
    section = ""
    for key in every_key():
        if key.section != section:
            section = key.section
            lines += ["", *textwrap.wrap(section_text(section), _WIDTH, **_COMMENT)]
            # Commented out: a table NAME would be one more queue.
            lines.append(f"#[{section}]" if section.endswith(_NAME) else f"[{section}]")
        lines += ["", *textwrap.wrap(key.text.replace("`", ""), _WIDTH, **_COMMENT)]
        if key.name in given:
            lines.append(f"{key.name} = {given[key.name]}")
        else:
            lines.append(f"#{key.name} = {key.default or key.example}")
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the file, for editors."""
    properties: dict[str, dict[str, Any]] = {}
    for key in every_key():
        section = properties.setdefault(
            key.section,
            {
                "type": "object",
                "description": section_text(key.section),
                "additionalProperties": False,
                "properties": {},
            },
        )
        described = _kind(key)
        described["description"] = key.text
        if key.default is not None:
            described["default"] = tomllib.loads(f"x = {key.default}")["x"]
        section["properties"][key.name] = described
    for name in named_tables():
        properties[name] = {
            "type": "object",
            "propertyNames": {"pattern": _for_editors(NAME)},
            "additionalProperties": properties.pop(f"{name}.{_NAME}"),
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of the dispatcher",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: properties[name] for name in Settings.__struct_fields__},
    }


def _kind(key: Key) -> dict[str, Any]:
    """Return the schema of a key's values, without the null for a key that is left out."""
    fields = msgspec.structs.fields(_types_by_header()[key.section])
    field = next(field for field in fields if field.name == key.field)
    made: dict[str, Any] = msgspec.json.schema(field.type, schema_hook=_quantity)
    kind = next((kind for kind in made.get("anyOf", ()) if kind != {"type": "null"}), made)
    if "pattern" in kind:
        kind["pattern"] = _for_editors(kind["pattern"])
    return kind


def _for_editors(pattern: str) -> str:
    """Return a pattern for the whole text in the form of ECMA 262."""
    return pattern.replace(r"\A", "^").replace(r"\Z", "$")


def _quantity(kind: type) -> dict[str, Any]:
    return dict(_SIZE if kind is Bytes else _DURATION)


#: The variables of a worker's environment that take precedence over the file.
_PLACES = {("node", "state_dir"): STATE, ("node", "runtime_dir"): RUNTIME, ("store", "url"): STORE}


class Effective(NamedTuple):
    """A key's value, durations as text, and its source.

    The source is "environment" (of a worker), "file", "default", or "derived" from the host.
    """

    key: Key
    value: Any
    source: str


def effective(config: Config, environ: Mapping[str, str] = os.environ) -> Iterator[Effective]:
    """Yield the value of each key."""
    given = given_by(config.file) if config.file is not None else frozenset()
    _, applicable = find(None if config.file is None else str(config.file), environ)
    overridden = {place for place, name in _PLACES.items() if applicable.get(name)}
    resolved: dict[tuple[str, str], Any] = {
        ("node", "state_dir"): str(config.state_dir),
        ("node", "runtime_dir"): str(config.runtime_dir),
        ("node", "slots"): config.slots,
        ("node", "labels"): config.labels,
        ("store", "url"): config.store_url,
        ("store", "schema"): config.store_schema,
        ("daemon", "on_stop"): config.on_stop,
        ("executor", "absence_limit"): _plain_value(config.absence_limit_ms or "never"),
    }
    for key in every_key():
        section, _, named = key.section.partition(".")
        if named:
            for name, table in getattr(config, section).items():
                own = key._replace(section=f"{section}.{name}")
                if (own.section, own.name) in given:
                    yield Effective(own, _plain_value(getattr(table, key.field)), "file")
            continue
        place = (key.section, key.name)
        value = resolved.get(place)
        if value is None:
            value = _plain_value(getattr(getattr(config, key.section), key.field))
        if place in overridden:
            yield Effective(key, value, "environment")
        elif place in given:
            yield Effective(key, value, "file")
        else:
            yield Effective(key, value, "default" if key.default else "derived")


def _plain_value(value: object) -> object:
    return str(value) if isinstance(value, Milliseconds | Bytes) else value


_COMMENT: dict[str, Any] = {
    "initial_indent": "# ",
    "subsequent_indent": "# ",
    "break_long_words": False,
    "break_on_hyphens": False,
}


def _is_derived(field: Any) -> bool:
    default = field.default
    nothing = default is None or default is msgspec.NODEFAULT
    return nothing or (isinstance(default, Milliseconds) and default < 0)


def _flat(text: str) -> str:
    return " ".join(text.split())


@cache
def _texts(kind: type[Section]) -> dict[str, str]:
    """Return the docstring of each field of a section's type, and of its base."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    base = kind.__base__
    found = {} if base is Section or base is None else dict(_texts(base))
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(words))
            ):
                found[name] = words
    return found
