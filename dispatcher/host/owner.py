"""Root at work in another user's directory: the process becomes that user.

The owner of a directory can put a symbolic link in the place of any name in it, at any moment: a
file that root opens, makes or removes by such a name may be any file of the host. As the owner, the
process can do no more than the owner can, and each file that it makes is the owner's.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dispatcher.errors import ConfigError

#: Symbolic links that the kernel follows on the way to one file: path_resolution(7).
MOST_LINKS: Final = 40

_PR_SET_DUMPABLE: Final = 4

#: What this process became.
_became: Final[list[Owner]] = []


@dataclass(frozen=True, slots=True)
class Owner:
    """A user other than root, and what belongs to it on the way to a file."""

    uid: int
    gid: int
    place: Path
    """A directory, or a symbolic link."""

    @property
    def name(self) -> str:
        """Its name, as `sudo -u` takes it."""
        return name_of(self.uid)

    def __str__(self) -> str:
        return f"uid {self.uid}" if self.name.startswith("#") else f"{self.name} (uid {self.uid})"


def name_of(uid: int) -> str:
    """Return a user's name, or #UID where the host has none."""
    import pwd  # noqa: PLC0415 - for root alone

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def owner_of(
    path: Path,
    *,
    unknown: int | None,
    lstat: Callable[[Path], os.stat_result] = os.lstat,
    readlink: Callable[[Path], str] = os.readlink,
) -> Owner | None:
    """Return the user who decides which file an absolute path leads to; None: only root does.

    That is the last one who owns a directory or a symbolic link on the way to it, as far as the way
    exists. `unknown` is the id that stands for users without one in this namespace: none of them
    can become root in it.
    """
    last = None
    for place, found in _way(path, lstat, readlink):
        if found.st_uid not in {0, unknown}:
            last = Owner(found.st_uid, found.st_gid, place)
    return last


def _way(
    path: Path,
    lstat: Callable[[Path], os.stat_result],
    readlink: Callable[[Path], str],
) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each directory and link that the kernel passes on the way to a path, and its end."""
    at, left, links = Path("/"), list(reversed(path.parts)), 0
    while left:
        # A part that is absolute, as a link's target may be, begins at the root again.
        there = at.parent if left[-1] == ".." else at / left[-1]
        left.pop()
        try:
            found = lstat(there)
        except OSError:
            return
        yield there, found
        if not stat.S_ISLNK(found.st_mode):
            at = there
        elif (links := links + 1) > MOST_LINKS:
            return
        else:
            left += reversed(Path(readlink(there)).parts)


def unknown_user(proc: Path = Path("/proc")) -> int | None:
    """Return the id that stands for users without one in this namespace; None: each has one.

    None also where a user of the namespace has that id.
    """
    with suppress(OSError, ValueError):
        unknown = int((proc / "sys/kernel/overflowuid").read_text())
        lines = (proc / "self/uid_map").read_text().splitlines()
        ranges = [[*map(int, line.split())] for line in lines]
        if not any(first <= unknown < first + count for first, _, count in ranges):
            return unknown
    return None


def agree(place: Path, other: Path) -> bool:
    """Tell whether one user decides about two places. Only root asks: others need no care."""
    if os.geteuid() != 0:
        return True
    unknown = unknown_user()
    first, second = (owner_of(path, unknown=unknown) for path in (place, other))
    return (first and first.uid) == (second and second.uid)


def foreign_owner(state_dir: Path, others: Mapping[str, Path]) -> Owner | None:
    """Return the user to whom the state directory belongs, if this is root and that is not.

    Raises `ConfigError` where the state directory is root's, and one of the `others` is not.
    """
    if os.geteuid() != 0:
        return None
    unknown = unknown_user()
    if (owner := owner_of(state_dir, unknown=unknown)) is not None:
        return owner
    for what, path in others.items():
        if (owner := owner_of(path, unknown=unknown)) is not None:
            raise ConfigError(
                f"the {what} {path} belongs to {owner}{_through(owner, path)}, and the state"
                f" directory {state_dir} to root, who does not work in another user's directory;"
                " let one user own both"
            )
    return None


def refused(owner: Owner, state_dir: Path) -> ConfigError:
    """Return the error of root who stays root in another user's state directory."""
    return ConfigError(
        f"the state directory {state_dir} belongs to {owner}{_through(owner, state_dir)}, and root"
        f" does not work in another user's directory: sudo -u '{owner.name}' dispatcher ..."
    )


def _through(owner: Owner, path: Path) -> str:
    return "" if owner.place == path else f", to whom {owner.place} belongs"


def become(owner: Owner, state_dir: Path) -> None:
    """Become the owner of the state directory, for good, with its groups, home and name.

    Raises `ConfigError` where this process may not, or could not load its own code then.
    """
    import pwd  # noqa: PLC0415 - for root alone

    entry = None
    with suppress(KeyError):
        entry = pwd.getpwuid(owner.uid)
    gid = owner.gid if entry is None else entry.pw_gid
    try:
        if entry is None:
            os.setgroups([])
        else:
            os.initgroups(entry.pw_name, gid)
        os.setresgid(gid, gid, gid)
        os.setresuid(owner.uid, owner.uid, owner.uid)
    except OSError as error:
        raise refused(owner, state_dir) from error
    _became.append(owner)
    # Without an entry as container runtimes have it: no name, and a home that is there.
    os.environ["HOME"] = "/" if entry is None else entry.pw_dir
    for name in ("USER", "LOGNAME"):
        os.environ.pop(name, None)
        if entry is not None:
            os.environ[name] = entry.pw_name
    _see_own_code(owner)


def _see_own_code(owner: Owner) -> None:
    """Raise `ConfigError` where the owner cannot load what is imported later, or started."""
    for path in (sys.executable, Path(os.__file__).parent, Path(__file__).parents[1]):
        if not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(
                f"{owner.place} belongs to {owner}, who cannot read {path}: install dispatcher and"
                " its Python where that user can"
            )


def show_in_proc() -> None:
    """Let the user see in /proc what this process has open, as of each of its own.

    The kernel hides a process that has changed its user: PR_SET_DUMPABLE in prctl(2).
    """
    import ctypes  # noqa: PLC0415 - for root's daemon alone

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def became() -> Owner | None:
    """Return the user that this process became; None: it is who started it."""
    return _became[-1] if _became else None


def of_another(path: Path | str) -> str | None:
    """Return the remedy for a place that is another user's; None: it is this user's, or not there.

    What cannot be seen is of the user whose directory hides it.
    """
    for place in (Path(path), *Path(path).parents):
        try:
            uid = place.stat().st_uid
        except OSError:
            continue
        hidden = place != Path(path)
        if uid == os.geteuid() or (hidden and os.access(place, os.X_OK, effective_ids=True)):
            return None
        name = name_of(uid)
        return f"{place} belongs to user {name}; run this as that user: sudo -u {name}"
    return None


def meant_for(file: Path) -> str | None:
    """Return the user who is to read a file, which this one may not; None: nobody, or this one.

    Of a file, or a directory that hides it, that is root's and for a group, that is the user of the
    group's name, as `install-service` leaves it.
    """
    import grp  # noqa: PLC0415 - for who may not read it
    import pwd  # noqa: PLC0415

    for place in (file, *file.parents):
        try:
            found = place.stat()
        except OSError:
            continue
        if found.st_uid == os.geteuid():
            return None
        name = name_of(found.st_uid)
        if found.st_uid == 0 and found.st_gid != 0 and found.st_mode & stat.S_IRGRP:
            with suppress(KeyError):
                name = pwd.getpwnam(grp.getgrgid(found.st_gid).gr_name).pw_name
        return name
    return None


def may_read(owner: Owner, file: Path) -> bool:
    """Say whether a user may read a file; only root asks. True where root may not become the user.

    Root is that user while the kernel is asked.
    """
    before = os.getgroups()
    name = owner.name
    groups = [owner.gid] if name.startswith("#") else os.getgrouplist(name, owner.gid)
    try:
        os.setgroups(groups)
        os.setegid(owner.gid)
        os.seteuid(owner.uid)
        return os.access(file, os.R_OK, effective_ids=True)
    except PermissionError:
        return True
    finally:
        os.seteuid(0)
        os.setegid(0)
        with suppress(PermissionError):
            os.setgroups(before)
