"""Whose the files are: those that root makes among a service user's, and those of another user."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def give(descriptor: int, like: Path) -> None:
    """Let a file that root just made belong to the owner of another, or of its directory."""
    with suppress(OSError):
        if os.geteuid() == 0 == os.fstat(descriptor).st_uid:
            owner = like.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def of_another(path: Path) -> str | None:
    """Return the remedy for a place that is another user's; None: it is this user's, or not there.

    What cannot be seen is of the user whose directory hides it.
    """
    for place in (path, *path.parents):
        try:
            owner = place.stat().st_uid
        except OSError:
            continue
        hidden = place != path
        if owner == os.geteuid() or (hidden and os.access(place, os.X_OK, effective_ids=True)):
            return None
        return (
            f"{place} belongs to user {_name(owner)}; run this as that user: sudo -u {_name(owner)}"
        )
    return None


def _name(uid: int) -> str:
    import pwd  # noqa: PLC0415 - only a stranger asks

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"  # as sudo takes it


def make_directory(directory: Path) -> None:
    """Make a private directory, and those above it, unless it is there.

    What root makes is owned like the directory that it is in.
    """
    above = (directory, *directory.parents) if os.geteuid() == 0 else ()
    missing = [each for each in above if not each.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in reversed(missing):
        descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            give(descriptor, made.parent)
        finally:
            os.close(descriptor)


def opened(path: str, flags: int, mode: int = 0o600) -> int:
    """Return a descriptor of a file, made if missing, and then owned like its directory."""
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags | os.O_CREAT, mode)
    give(descriptor, Path(path).parent)
    return descriptor


def make(file: Path, *, like: Path) -> None:
    """Make an empty private file, owned like another when root makes it; it must not be there."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        give(descriptor, like)
    finally:
        os.close(descriptor)
