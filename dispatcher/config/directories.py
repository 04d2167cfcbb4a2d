"""The directories of a node, which are all that the executor needs of the configuration.

A mistake in the file stops a start or a reload of the daemon. It must not stop an executor: a
running daemon uses the file of before, and waits for its executor.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dispatcher.config import config, toml
from dispatcher.config.config import Config, Mistaken
from dispatcher.config.settings import NodeSection, Settings
from dispatcher.errors import ConfigError
from dispatcher.host.node import known_node_id

_HEADER = re.compile(r"\s*\[")
_NODE = re.compile(r"\s*\[\s*node\s*\]\s*(#.*)?$")
_DIRECTORY = re.compile(r"\s*[\"']?(state_dir|runtime_dir)\b")
_NAMES_DIRECTORY = re.compile(r"state_dir|runtime_dir", re.IGNORECASE)
_KEY = re.compile(r"\s*[^#\s]")
_SLOTS = re.compile(r"\s*[\"']?slots\b")
_STORE = re.compile(r"\s*\[\s*store\s*\]\s*(#.*)?$")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})")
_DIRECTORIES = re.compile(r"node|state_dir|runtime_dir", re.IGNORECASE)
_PLACES = re.compile(rf"{_DIRECTORIES.pattern}|store|url|sqlite", re.IGNORECASE)
_DOTTED = re.compile(r"\s*[\"']?node[\"']?\s*[.=]")


class Found(NamedTuple):
    """A configuration whose directories are certain."""

    config: Config
    """The configuration with defaults in place of the mistakes."""
    mistakes: Sequence[str] = ()
    """The mistakes of the file, a line each."""


def load(named: str | None = None, environ: Mapping[str, str] = os.environ) -> Found:
    """Return the configuration if its directories are certain, whatever other mistakes it has.

    Raises `ConfigError` if they are not: another directory is another node.
    """
    try:
        loaded = config.load(named, environ)
        return Found(loaded, loaded.mistakes)
    except Mistaken as error:
        if not error.directories_certain:
            raise
        return Found(error.rest, error.mistakes)
    except ConfigError as error:
        found = despite_mistakes(named, environ)
        if found is None:
            raise
        return Found(found, str(error).splitlines())


def despite_mistakes(
    named: str | None, environ: Mapping[str, str] = os.environ, *, with_store: bool = False
) -> Config | None:
    """Return the configuration of a file that is not TOML; None: its directories are not certain.

    `with_store`: the store must be certain too, so no line of the file may name one. The state
    directory must be one in which a node was started.
    """
    file, environ = config.find(named, environ)
    node = file and _node_in(file, with_store=with_store)
    if not node:
        return None
    found, impossible = config.resolve(Settings(node=node), file, environ)
    if any(map(config.concerns_directories, impossible)):
        return None
    return found if known_node_id(found.state_dir) is not None else None


def _is_disguised(line: str, words: re.Pattern[str]) -> bool:
    """Return whether escapes of a line spell one of these words."""
    plain = _ESCAPE.sub(_character, line)
    return len(words.findall(plain)) > len(words.findall(line))


def _character(escape: re.Match[str]) -> str:
    code = int(escape[1] or escape[2], 16)
    return chr(code) if code <= sys.maxunicode else ""


def _node_in(file: Path, *, with_store: bool) -> NodeSection | None:
    """Return the directories of a file's only [node], by its lines; None: they are not certain.

    Nothing is certain in a file with multi-line strings, whose lines may look like sections, or
    where escapes spell a word that matters.
    """
    try:
        text = toml.text_of(file)
        lines = text.splitlines()
        if any(quotes in text for quotes in ("'''", '"""')):
            return None
        words = _PLACES if with_store else _DIRECTORIES
        if any(_KEY.match(line) and _is_disguised(line, words) for line in lines):
            return None
        if with_store and _may_name_store(lines):
            return None
        table = toml.tables(file, "\n".join(_lines_of_node(lines)))
    except (ConfigError, ValueError):
        return None
    state_dir, runtime_dir = table.get("state_dir"), table.get("runtime_dir")
    if not isinstance(state_dir, str) or not isinstance(runtime_dir, str | None):
        return None
    return NodeSection(state_dir=state_dir, runtime_dir=runtime_dir)


def _may_name_store(lines: Sequence[str]) -> bool:
    """Return whether a line may name a store: any place in a mistaken line may be its key."""
    inside = False
    for line in lines:
        if _HEADER.match(line):
            inside = _STORE.match(line) is not None
            named = not inside and _names_store(line)
        else:
            named = inside or _names_store(line)
        if named and _KEY.match(line) and not _DIRECTORY.match(line):
            return True
    return False


def _names_store(line: str) -> bool:
    """Return whether a line names a store, but for a comment that can hold neither key nor text."""
    before, _, comment = line.partition("#")
    line = line if re.search("[\"'=]", comment) else before
    return toml.NAMES_STORE.search(line) is not None


def _lines_of_node(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of [node] that name directories. Raises ValueError if others may do so."""
    inside, sections = False, 0
    for line in lines:
        if _HEADER.match(line):
            inside = _NODE.match(line) is not None
            sections += inside
            if not inside and _NAMES_DIRECTORY.search(line):
                raise ValueError(line)
        elif _DIRECTORY.match(line) and inside:
            yield line
        elif inside and _KEY.match(line) and not _SLOTS.match(line):
            raise ValueError(line)  # it may be a directory, misspelled
        elif _KEY.match(line) and (_NAMES_DIRECTORY.search(line) or _DOTTED.match(line)):
            raise ValueError(line)
    if sections != 1:
        raise ValueError(f"{sections} sections [node]")
