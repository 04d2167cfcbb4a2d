"""The files and directories of a service: seen by its units, owned by root, open to its user."""

import os
import pwd
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dispatcher.config import of_service
from dispatcher.config.config import SYSTEM_FILE, SYSTEM_UNITS, Config
from dispatcher.errors import ConfigError
from dispatcher.host.owner import Owner, owner_of, sudo, unknown_user
from dispatcher.service import systemd, units
from dispatcher.service.files import InstallStep


def expect_own(path: Path) -> None:
    """Raise `ConfigError` for root and a path that leads where another user decides (ADR 13).

    A configuration names directories that root makes and gives to the service's user.
    """
    if os.geteuid() != 0 or (owner := owner_of(path, unknown=unknown_user())) is None:
        return
    through = "" if owner.place == path else f", to whom {owner.place} belongs"
    raise ConfigError(
        f"{path} belongs to {owner}{through}, and root installs by root's own files only:"
        f" {_remedy_of_foreign(path, owner)}"
    )


def _remedy_of_foreign(path: Path, owner: Owner) -> str:
    """Return how root gets a place of its own; a directory of the user's own stays the user's."""
    place = owner.place
    give_back = f"chown {'-h ' if place.is_symlink() else ''}root {shlex.quote(str(place))}"
    for roots in (SYSTEM_FILE.parent, SYSTEM_UNITS):
        if place.is_relative_to(roots) or roots.is_relative_to(place):
            return give_back
    elsewhere = (
        f"move it, for example to {SYSTEM_FILE.parent}, or install a service of that user:"
        f" {sudo(owner.uid)} dispatcher install-service --user"
    )
    is_in_roots = owner_of(place.parent, unknown=unknown_user()) is None
    return f"{give_back}, or {elsewhere}" if place == path and is_in_roots else elsewhere


def make_directory(
    path: Path, *, mode: int, above: int = 0o755, owner: Owner | None = None
) -> None:
    """Make a directory, those missing above it with the mode `above`. Raises OSError.

    Mode and owner are set by descriptor, so a link in its place gets neither.
    """
    missing = [part for part in (path, *path.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(part, flags)
        try:
            if part == path and owner is not None:
                os.fchown(descriptor, owner.uid, owner.gid)
            os.fchmod(descriptor, mode if part == path else above)
        finally:
            os.close(descriptor)


def expect_visible(paths: Sequence[Path]) -> None:
    """Raise `ConfigError` for a path that the daemon's unit hides from it."""
    for path in paths:
        if (hidden := of_service.hidden_by(path)) is not None:
            raise ConfigError(
                f"{path} is below {hidden}, which a service of the host does not see; move it, for"
                " example to /opt, /etc or /var/lib, or install a service of your own: --user"
            )


def expect_makeable(directories: Sequence[Path]) -> None:
    """Raise `ConfigError` for a directory that is a file, or below one."""
    for directory in directories:
        way = (directory, *directory.parents)
        there = next(part for part in way if os.path.lexists(part))
        if not there.is_dir():
            wrong = f"{there} is not a directory"
            raise ConfigError(f"{directory}: {wrong}; move it, or name another directory")


def start_paths(command: Sequence[str]) -> Sequence[Path]:
    """Return the paths that the service starts from: the command, its Python, this package."""
    program = Path(command[0])
    return program, program.resolve(), Path(sys.executable).resolve(), units.SHIPPED.resolve()


def make_places(config: Config, run_as: str) -> Iterator[InstallStep]:
    """Make the directories that systemd does not make, and warn of those closed to the service.

    None is made below a directory of another user, who may lead its path to any place of root's.
    """
    figures = units.figures_directory(config)
    entry = pwd.getpwnam(run_as)
    for directory in units.other_places(config):
        foreign = owner_of(directory, unknown=unknown_user())
        if foreign is not None and not directory.exists():
            why = f"{directory} is missing, and {foreign.place} belongs to {foreign}"
            yield InstallStep(
                "warning",
                f"{why}; make it: {sudo(foreign.uid)} mkdir -p {shlex.quote(str(directory))}",
            )
        elif not directory.exists():
            mode = 0o755 if directory == figures else 0o700
            owner = Owner(entry.pw_uid, entry.pw_gid, directory)
            make_directory(directory, mode=mode, owner=owner)
            yield InstallStep("made", str(directory))
        elif (closed := systemd.unwritable(directory, run_as)) is not None:
            remedy = of_service.enter(closed)
            if closed == directory.resolve():
                remedy = of_service.remedy_if_closed(directory, entry.pw_uid)
            why = f"the user {run_as} may not write in {directory}"
            yield InstallStep("warning", f"{why}; the service needs it: {remedy}")


def warn_unreadable(paths: Sequence[Path], run_as: str) -> Iterator[InstallStep]:
    """Warn of paths that the service's user may not read."""
    for path in dict.fromkeys(paths):
        if (part := systemd.unreadable(path, run_as)) is not None:
            yield InstallStep(
                "warning",
                f"the user {run_as} may not read {part}; the service needs it:"
                f" {_remedy(part, run_as)}",
            )


def _remedy(path: Path, user: str) -> str:
    if path.is_dir():
        return of_service.enter(path)
    named = shlex.quote(str(path))
    return f"chgrp {systemd.account(user)[1]} {named} && chmod ug+r {named}"
