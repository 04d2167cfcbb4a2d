"""What a mistake of the configuration file may concern: one profile, the places, or more.

A word that nobody knows may be any key, misspelled, and a key below the wrong header may be meant
for another section. What is not certain counts as concerned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dispatcher.config import toml
from dispatcher.config.section import Section
from dispatcher.config.settings import NodeSection, StoreSection
from dispatcher.config.tables import key_types, named_tables, sections

#: The keys of [node] that name its directories.
DIRECTORIES = frozenset({"state_dir", "runtime_dir"})


class Mistake(NamedTuple):
    """A mistake of a key, or of its section if the key is "".

    The section of a named table is its whole path: `queues.builds`.
    """

    section: str
    key: str
    what: str


def profile_of(mistake: Mistake, table: Mapping[str, Any]) -> str | None:
    """Return the one profile that a mistake concerns; None: it may concern more of the file."""
    section, _, name = mistake.section.partition(".")
    if section != "profiles" or not (name or mistake.key):
        return None
    if concerns_directories(mistake) or concerns_store(mistake, table):
        return None
    own = key_types(named_tables()[section]) if name else {}
    if mistake.key not in own and any(mistake.key in key_types(kind) for kind in _kinds()):
        return None  # it may be meant for the section that has it
    return name or mistake.key


def is_stray_key(mistake: Mistake, table: Mapping[str, object]) -> bool:
    """Return whether a mistake is a known key, of no place, outside its section."""
    known = {key for kind in _kinds() for key in key_types(kind)}
    places = DIRECTORIES | key_types(StoreSection).keys()
    is_table = isinstance(table.get(mistake.section), dict)
    return mistake.section in known - places and not is_table


def concerns_directories(mistake: Mistake) -> bool:
    """Return whether a mistake is in a directory's key, or may be such a key."""
    if mistake.section == "node":
        return mistake.key in DIRECTORIES or mistake.key not in key_types(NodeSection)
    return _may_be_section(mistake) or mistake.key in DIRECTORIES


def concerns_store(mistake: Mistake, table: Mapping[str, Any]) -> bool:
    """Return whether a mistake is in the section of the store, or may be a key of it."""
    section, _, name = mistake.section.partition(".")
    if section == "store" or _may_be_section(mistake):
        return True
    kind = named_tables().get(section) if name else sections().get(section)
    if kind is not None and mistake.key in key_types(kind):
        return False
    body = table[section][name] if name else table[section]
    value = body.get(mistake.key) if mistake.key else body
    named = toml.NAMES_STORE.search(mistake.key) is not None
    return named or "sqlite" in str(value).lower()


def _kinds() -> tuple[type[Section], ...]:
    return (*sections().values(), *named_tables().values())


def _may_be_section(mistake: Mistake) -> bool:
    """Return whether a mistake is an unknown name, which may be that of a misspelled section."""
    return mistake.section.partition(".")[0] not in sections().keys() | named_tables().keys()
