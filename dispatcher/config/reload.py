"""Reloading: what changed, and what may change while the daemon runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from dispatcher.config.config import Config, find, load
from dispatcher.config.file import written
from dispatcher.config.section import Section
from dispatcher.quantities.durations import Milliseconds
from dispatcher.quantities.sizes import Bytes

#: Keys that stay as they are until the daemon ends, as other processes use them; each with the
#: attributes of `Config`.
KEPT: Mapping[str, tuple[str, ...]] = {
    "node.state_dir": ("state_dir",),
    "node.runtime_dir": ("runtime_dir",),
    "store.url": ("store_url",),
    "store.schema": ("store_schema",),
    "executor.mode": ("executor",),
    "executor.absence_limit": ("executor",),
}

#: Keys whose values may hold secrets.
_SECRET = frozenset({"env"})


class Change(NamedTuple):
    """The values of a key, in the form of the file; None: left out."""

    old: str | None
    new: str | None


class Reloaded(NamedTuple):
    config: Config
    """The new configuration, with what is kept of the old one."""
    changed: Mapping[str, Change]
    kept: Mapping[str, Change]
    """Changes that take effect when the daemon starts again."""


def file_of(before: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file that a reload reads: the same as before, or one that appeared since."""
    return before or find(None, environ)[0]


def reload(old: Config, environ: Mapping[str, str]) -> Reloaded:
    """Read the configuration's file again; where there was none, the one that is there now.

    A profile that has a mistake now stays as it was. After a `ConfigError` all of the old
    configuration stays in force.
    """
    new = load(str(old.file) if old.file is not None else None, environ)
    kept = {name: old.profiles[name] for name in new.mistaken_profiles if name in old.profiles}
    new = msgspec.structs.replace(new, profiles={**new.profiles, **kept})
    before, after = dict(_given_values(old)), dict(_given_values(new))
    changes = {
        key: Change(_shown(key, before), _shown(key, after))
        for key in (*before, *(key for key in after if key not in before))
        if before.get(key) != after.get(key)
    }
    stays = {field for fields in KEPT.values() for field in fields}
    return Reloaded(
        msgspec.structs.replace(new, **{field: getattr(old, field) for field in stays}),
        {key: change for key, change in changes.items() if key not in KEPT},
        {key: change for key, change in changes.items() if key in KEPT},
    )


def with_environments(
    reloaded: Reloaded,
    before: Mapping[str, Mapping[str, str]],
    after: Mapping[str, Mapping[str, str]],
) -> Reloaded:
    """Return it with the profiles whose `env_file` has other content now; values are not shown."""
    changed = {
        f"profiles.{name}.env_file": Change("(not shown)", "(not shown)")
        for name in before
        if name in after and before[name] != after[name]
    }
    return reloaded._replace(changed={**changed, **reloaded.changed})


def _given_values(config: Config) -> Iterator[tuple[str, object]]:
    yield "node.state_dir", str(config.state_dir)
    yield "node.runtime_dir", str(config.runtime_dir)
    yield "node.slots", config.slots
    yield "node.labels", config.labels or None
    yield "store.url", config.store_url
    yield "store.schema", config.store_schema
    for name in config.__struct_fields__:
        part = getattr(config, name)
        tables = part if isinstance(part, Mapping) else {"": part}
        for own, table in tables.items():
            if isinstance(table, Section):
                yield from _table_values(f"{name}.{own}" if own else name, table, named=bool(own))


def _table_values(path: str, table: Section, *, named: bool) -> Iterator[tuple[str, object]]:
    """Yield the values of a table; of a named one, which may be new, only those not left out."""
    for field in msgspec.structs.fields(table):
        value = getattr(table, field.name)
        if value is not None and not (named and value == field.default):
            yield f"{path}.{field.encode_name}", value


def _shown(key: str, values: Mapping[str, object]) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if key.rpartition(".")[2] in _SECRET:
        return "(not shown)"
    return str(value) if isinstance(value, str | Milliseconds | Bytes) else written(value)
