"""The users who control the places of this host: owners of directories, links and files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from dispatcher.errors import ConfigError

#: The user that this process, which root started, became: see `user_change`.
_became: Final[list[Owner]] = []

#: Symbolic links that the kernel follows on the way to one file: path_resolution(7).
MOST_LINKS: Final = 40


class Owner(Struct, frozen=True):
    """A user other than root, and a place that this user owns on the way to a file."""

    uid: int
    gid: int
    place: Path
    """A directory, or a symbolic link."""

    @property
    def name(self) -> str:
        """Its name, as `sudo -u` accepts it."""
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


def acting_user() -> str:
    """Return who started this process, and who called sudo, as `events.Actor` has them."""
    uid = os.getuid() if became() is None else 0  # root who became another user is still root
    name, caller = name_of(uid), os.environ.get("SUDO_USER", "")
    is_name = caller.isprintable() and not {*": "} & {*caller} and 0 < len(caller) < 65
    return f"user:{uid}:{name}" + f":{caller}" * (is_name and caller != name)


def sudo(uid: int) -> str:
    """Return the beginning of a shell command as a user."""
    import shlex  # noqa: PLC0415 - for advice alone

    return f"sudo -u {shlex.quote(name_of(uid))}"


def change_owner(uid: int, path: Path) -> str:
    """Return the shell command that gives a file or directory to a user."""
    import shlex  # noqa: PLC0415 - for advice alone

    return f"chown {installable_name(uid)} {shlex.quote(str(path))}"


def installable_name(uid: int) -> str:
    """Return a user's name as `chown` and `install -o` accept it: #UID begins a comment there."""
    import shlex  # noqa: PLC0415 - for advice alone

    return shlex.quote(name_of(uid).removeprefix("#"))


def remember_became(owner: Owner) -> None:
    """Record that this process became a user for good."""
    _became.append(owner)


def became() -> Owner | None:
    """Return the user that this process became; None: it kept its own."""
    return _became[-1] if _became else None


def group_name(gid: int) -> str:
    """Return a group's name, or its id where the host has none."""
    import grp  # noqa: PLC0415 - for advice alone

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def owner_of(
    path: Path,
    *,
    unknown: int | None,
    lstat: Callable[[Path], os.stat_result] = os.lstat,
    readlink: Callable[[Path], str] = os.readlink,
) -> Owner | None:
    """Return the user who controls which file an absolute path leads to; None: only root does.

    It is the last owner of a directory or symbolic link on the way, as far as the way exists.
    `unknown` is the id of users that this namespace does not map: none can become root in it.
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
    """Yield each directory and link that the kernel passes on the way to a path, and the last."""
    at, left, links = Path("/"), list(reversed(path.parts)), 0
    while left:
        # An absolute part, as of a link's target, starts at the root again.
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
    """Return the id of users that this namespace does not map; None if it maps all of them.

    None also if the namespace maps a user to that id.
    """
    with suppress(OSError, ValueError):
        unknown = int((proc / "sys/kernel/overflowuid").read_text())
        lines = (proc / "self/uid_map").read_text().splitlines()
        ranges = [[*map(int, line.split())] for line in lines]
        if not any(first <= unknown < first + count for first, _, count in ranges):
            return unknown
    return None


def belongs_to_root_alone(file: Path) -> bool:
    """Return whether a file exists that root owns, with each directory and link on the way to it.

    Users that this namespace does not map count as others.
    """
    try:
        file.stat()
    except OSError:
        return False
    return owner_of(file, unknown=None) is None


def have_same_owner(place: Path, other: Path) -> bool:
    """Return whether one user controls two places. Always True unless this process is root."""
    if os.geteuid() != 0:
        return True
    unknown = unknown_user()
    first, second = (owner_of(path, unknown=unknown) for path in (place, other))
    return (first and first.uid) == (second and second.uid)


def foreign_owner(state_dir: Path, others: Mapping[str, Path]) -> Owner | None:
    """Return the owner of the state directory, if this process is root and the owner is not.

    Raises `ConfigError` if the state directory is root's and one of the `others` is not.
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
    """Return the error for root that stays root in another user's state directory."""
    return ConfigError(
        f"the state directory {state_dir} belongs to {owner}{_through(owner, state_dir)}, and root"
        f" does not work in another user's directory: {sudo(owner.uid)} dispatcher ..."
    )


def make(directory: Path) -> None:
    """Create a directory and its parents, for this user only, if missing.

    Raises OSError, and `ConfigError` as `refuse_foreign` does.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_foreign(directory)


def refuse_foreign(*places: Path) -> None:
    """Raise `ConfigError` if this process is root and another user owns one of the places.

    In a directory that all may write, as /tmp, that user may have made a place that was missing
    when `foreign_owner` looked for its owner. From here on it exists, so that it stays root's.
    """
    if os.geteuid() != 0:
        return
    unknown = unknown_user()
    for path in places:
        if (owner := owner_of(path, unknown=unknown)) is not None:
            whose = f"{path} belongs to {owner}{_through(owner, path)}"
            raise ConfigError(
                f"{whose}, and did not when root looked for its owner; if that user is the right"
                " one, run the command again"
            )


def _through(owner: Owner, path: Path) -> str:
    return "" if owner.place == path else f", to whom {owner.place} belongs"


def remedy_if_foreign(path: Path | str) -> str | None:
    """Return the remedy for a place of another user; None: it is this user's, or missing.

    A hidden place counts as the owner's of the directory that hides it. None also for a place of
    root's if root typed the command, and became the user to whom it is closed.
    """
    for place in (Path(path), *Path(path).parents):
        try:
            uid = place.stat().st_uid
        except OSError:
            continue
        hidden = place != Path(path)
        if uid == os.geteuid() or _is_roots_choice(uid):
            return None
        if hidden and os.access(place, os.X_OK, effective_ids=True):
            return None
        return f"{place} belongs to user {name_of(uid)}; run this as that user: {sudo(uid)}"
    return None


def _is_roots_choice(uid: int) -> bool:
    return uid == 0 and became() is not None


def misplaced(file: Path) -> Path | None:
    """Return the directory or file of root's, in this user's own directory, that denies a file.

    It is to be given to this user, with whom root's verbs read no such file. None for a link, whose
    target may be any directory of root's, and for a file with another name elsewhere.
    """
    for place in (file, *file.parents):
        try:
            found = place.lstat()
            mine = place.parent.stat().st_uid == os.geteuid()
        except OSError:
            continue
        is_alone = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1
        is_link = stat.S_ISLNK(found.st_mode)
        return place if found.st_uid == 0 and mine and is_alone and not is_link else None
    return None


def intended_reader(file: Path) -> int | None:
    """Return the uid of the user for whom an unreadable file is meant; None: nobody, or this user.

    A file of root that a group may read, or such a directory that hides it, is meant for the user
    with the group's name: `install-service` leaves it so.
    """
    import grp  # noqa: PLC0415 - for who may not read it
    import pwd  # noqa: PLC0415

    for place in (file, *file.parents):
        try:
            found = place.stat()
        except OSError:
            continue
        if found.st_uid == os.geteuid() or _is_roots_choice(found.st_uid):
            return None
        uid = found.st_uid
        if found.st_uid == 0 and found.st_gid != 0 and found.st_mode & stat.S_IRGRP:
            with suppress(KeyError):
                uid = pwd.getpwnam(grp.getgrgid(found.st_gid).gr_name).pw_uid
        return uid
    return None
