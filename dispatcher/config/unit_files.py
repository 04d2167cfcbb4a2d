"""The units of the service that are installed, and which configuration file each of them reads."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from dispatcher.host import files

#: Bytes of a unit; systemd's own limit of a line is as large.
MOST_BYTES: Final = 1024 * 1024

#: Below this packages install units, those of user managers in `user`.
PACKAGED: Final = Path("/usr/lib/systemd")

_FILE = re.compile(
    r"^ExecStart[ \t]*=.* --config[ =](\"(?:[^\"\\]|\\.)*\"|[^\s\"]\S*)(?=\s|$)", re.MULTILINE
)
_USER = re.compile(r"^[ \t]*User[ \t]*=[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_STARTS = re.compile(r"^ExecStart[ \t]*=", re.MULTILINE)

#: Instances whose names systemd takes as they are: others are escaped (systemd.unit(5)).
_PLAIN = re.compile(r"[A-Za-z0-9:_.-]+")


class Installed(NamedTuple):
    """The options of an installation as its unit has them; None: not in the unit."""

    user: str | None
    file: Path | None
    """Its configuration."""


def installed(text: str, specifiers: Mapping[str, str] | None = None) -> Installed:
    """Return the options in the text of a unit; `specifiers` are those of systemd.unit(5)."""
    users, file = _USER.findall(text), _FILE.search(text)
    return Installed(
        users[-1] if users else None, file and Path(_unquoted(file[1], specifiers or {}))
    )


def _unquoted(word: str, specifiers: Mapping[str, str]) -> str:
    """Return the word that `service.units.argument` quoted."""
    if word.startswith('"'):
        word = re.sub(r"\\(.)", r"\1", word[1:-1])
    values = {"%": "%", **specifiers}
    return re.sub("%(.)", lambda one: values.get(one[1], one[0]), word.replace("$$", "$"))


class Manager(NamedTuple):
    """A service manager, and where it finds its units."""

    systemctl: str
    """The command that manages its units."""
    usual_file: Path
    """The configuration that is read where a unit names none."""
    units: Sequence[Path]
    """The directories of its units; the first that has a name decides."""

    def unit_of(self, file: Path, unit: str) -> str | None:
        """Return the name, without its suffix, of the unit that reads a file; None: none does.

        `install-service --config FILE` makes a unit of any name read any file.
        """
        real = os.path.realpath(file)
        for name in dict.fromkeys(self._names(file, unit)):
            read = self._file_of(name)
            if read is not None and os.path.realpath(read) == real:
                return name
        return None

    def start_command(self, unit: str) -> str:
        return f"{self.systemctl} start {shlex.quote(unit)}"

    def has(self, unit: str) -> bool:
        """Return whether there is a unit of this name, whatever it reads."""
        return any(os.path.lexists(directory / f"{unit}.service") for directory in self.units)

    def _names(self, file: Path, unit: str) -> Iterator[str]:
        if file == self.usual_file:  # by the template, an instance would read it too
            yield unit
        if _PLAIN.fullmatch(file.stem):
            yield f"{unit}@{file.stem}"
        yield unit
        for directory in self.units:
            yield from sorted(path.stem for path in directory.glob(f"{unit}@?*.service"))

    def _file_of(self, name: str) -> Path | None:
        """Return the file that a unit reads; None: unknown, or the unit is missing."""
        unit, _, instance = name.partition("@")
        specifiers = {"i": instance, "E": str(self.usual_file.parents[1])}
        for one in dict.fromkeys((name, f"{unit}@" if instance else unit)):
            for directory in self.units:
                try:
                    content = files.read(directory / f"{one}.service", MOST_BYTES)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError:
                    return None
                text = content.decode("utf-8", "replace")
                usual = self.usual_file if _STARTS.search(text) else None  # none in a masked one
                return installed(text, specifiers).file or usual
        return None


def start_command(managers: Sequence[Manager], file: Path, unit: str) -> str | None:
    """Return the command that starts the daemon of a file; None: no unit is known to read it.

    The usual file has the usual unit also where none of that name is to be seen.
    """
    for manager in managers:
        if (name := manager.unit_of(file, unit)) is not None:
            return manager.start_command(name)
    for manager in managers:
        if file == manager.usual_file and not manager.has(unit):
            return manager.start_command(unit)
    return None
