"""What a mistake of the configuration file may concern: one profile, the places, or more.

A word that nobody knows may be any key, misspelled, and a key below the wrong header may be meant
for another section. What is not certain counts as concerned.
"""

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

from dispatcher.config import toml
from dispatcher.config.section import Section
from dispatcher.config.settings import NodeSection, StoreSection
from dispatcher.config.tables import key_types, named_tables, sections

#: The keys of [node] that name its directories.
DIRECTORIES = frozenset({"state_dir", "runtime_dir"})


class Mistake(NamedTuple):
    """A mistake of a key, or of its section if the key is None."""

    section: tuple[str, ...]
    """`("queues", "builds")` for a named table; () for a name outside every section."""
    key: str | None
    what: str

    @property
    def path(self) -> tuple[str, ...]:
        return self.section if self.key is None else (*self.section, self.key)


def profile_of(mistake: Mistake, table: Mapping[str, Any]) -> str | None:
    """Return the one profile that a mistake concerns; None: it may concern more of the file."""
    if mistake.path[0] != "profiles" or len(mistake.path) == 1:
        return None
    if concerns_directories(mistake) or concerns_store(mistake, table):
        return None
    own = key_types(named_tables()["profiles"]) if len(mistake.section) > 1 else {}
    if mistake.key not in own and any(mistake.key in key_types(kind) for kind in _kinds()):
        return None  # it may be meant for the section that has it
    return mistake.path[1]


def is_stray_key(mistake: Mistake, table: Mapping[str, object]) -> bool:
    """Return whether a mistake is a known key, of no place, outside its section."""
    known = {key for kind in _kinds() for key in key_types(kind)}
    places = DIRECTORIES | key_types(StoreSection).keys()
    name, *more = mistake.path
    return not more and name in known - places and not isinstance(table[name], dict)


def concerns_directories(mistake: Mistake) -> bool:
    """Return whether a mistake is in a directory's key, or may be such a key."""
    if mistake.section == ("node",):
        return mistake.key in DIRECTORIES or mistake.key not in key_types(NodeSection)
    return not mistake.section or mistake.key in DIRECTORIES


def concerns_store(mistake: Mistake, table: Mapping[str, Any]) -> bool:
    """Return whether a mistake is in the section of the store, or may be a key of it."""
    if mistake.section in {(), ("store",)}:
        return True
    section, *names = mistake.section
    kind = named_tables().get(section) if names else sections().get(section)
    if kind is not None and mistake.key in key_types(kind):
        return False
    body: Mapping[str, Any] = reduce(getitem, mistake.section, table)
    value = body if mistake.key is None else body.get(mistake.key)
    named = mistake.key is not None and toml.NAMES_STORE.search(mistake.key) is not None
    return named or "sqlite" in str(value).lower()


def _kinds() -> tuple[type[Section], ...]:
    return (*sections().values(), *named_tables().values())
