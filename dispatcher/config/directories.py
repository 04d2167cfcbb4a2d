"""The directories of a node, which are all that the executor needs of the configuration.

A mistake in the file stops a start or a reload of the daemon. It must not stop an executor: a
running daemon uses the file of before, and waits for its executor.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from dispatcher.config import config, toml
from dispatcher.config.config import Config, Mistaken
from dispatcher.config.settings import ExecutorSection, NodeSection, Settings
from dispatcher.errors import ConfigError
from dispatcher.host.node import known_node_id

#: The beginning of a header; its name if it is one that matters, and nothing follows it.
_HEADER = re.compile(r"\s*\[(?:\s*(node|store)\s*\]\s*(?:#.*)?$)?")
_DIRECTORY = re.compile(r"\s*[\"']?(state_dir|runtime_dir)\b")
_SLOTS = re.compile(r"\s*[\"']?slots\b")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
#: The mode matters to advice alone.
_EXTERNAL = re.compile(r"^[ \t]*mode[ \t]*=[ \t]*[\"']?external", re.MULTILINE)

#: A word that may name a directory, or a store; `--url` is an option of another program.
_DIRECTORIES = re.compile(r"(?<!--)(?:state_dir|runtime_dir)", re.IGNORECASE)
_STORE = re.compile(rf"(?<!--)(?:{toml.NAMES_STORE.pattern})", re.IGNORECASE)


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

    `with_store`: the store must be certain too. The environment of a worker names all of them.
    Elsewhere the file's lines do, for a state directory in which a node was started.
    """
    file, environ = config.find(named, environ)
    if file is None:
        return None
    given = config.names_places(environ, with_store=with_store)
    try:
        settings = Settings() if given else _settings_in(file, with_store=with_store)
    except (ConfigError, ValueError):
        return None
    found, impossible = config.resolve(settings, file, environ)
    if any(with_store or config.concerns_directories(what) for what in impossible):
        return None
    return found if given or known_node_id(found.state_dir) is not None else None


def _settings_in(file: Path, *, with_store: bool) -> Settings:
    """Return the directories of a file's only [node], by its lines, and how the daemon is started.

    Raises ValueError or `ConfigError` if the directories are not certain.
    """
    text = toml.text_of(file)
    lines = "\n".join(_lines_of_node(text, with_store=with_store))
    node = msgspec.convert(toml.tables(file, lines), NodeSection)
    if node.state_dir is None:
        raise ValueError("no state_dir")
    mode = ExecutorSection(mode="external" if _EXTERNAL.search(text) else "embedded")
    return Settings(node=node, executor=mode)


def _lines_of_node(text: str, *, with_store: bool) -> Iterator[str]:
    """Yield the lines of [node] that name directories. Raises ValueError if others may name places.

    No multi-line text may begin before the end of [node]: its lines may look like that section.
    """
    section, nodes = None, 0
    # The line ends of TOML: str.splitlines knows others, which a comment may hold.
    for line in text.replace("\r\n", "\n").split("\n"):
        if "\r" in line:
            raise ValueError(line)  # some editors end a line there
        if not line.strip() or line.lstrip(" \t").startswith("#"):
            continue
        if header := _HEADER.match(line):
            section = header[1]
            nodes += section == "node"
            if section is not None:
                continue
        if section == "node" and _DIRECTORY.match(line):
            yield line
        elif not _is_harmless(line, section, with_store=with_store):
            raise ValueError(line)
        if (section == "node" or not nodes) and ("'''" in line or '"""' in line):
            raise ValueError(line)
    if nodes != 1:
        raise ValueError(f"{nodes} sections [node]")


def _is_harmless(line: str, section: str | None, *, with_store: bool) -> bool:
    """Return whether a line certainly names no place: any place in a mistaken line may be a key."""
    if section == "node" and not _SLOTS.match(line):
        return False  # it may be a directory, misspelled
    if section == "store" and with_store:
        return False
    plain = _ESCAPE.sub(_character, _without_comment(line))
    return not (_DIRECTORIES.search(plain) or (with_store and _STORE.search(plain)))


def _without_comment(line: str) -> str:
    """Return a line without a comment at its end, if that can hold neither key nor text."""
    end = max(map(line.rfind, "\"'=")) + 1
    return line[:end] + line[end:].partition("#")[0]


def _character(escape: re.Match[str]) -> str:
    code = int(escape[escape.lastindex or 0], 16)
    return chr(code) if code <= sys.maxunicode else ""
