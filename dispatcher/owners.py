"""Whose the files are that root makes among a service user's."""

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


def make(file: Path, *, like: Path) -> None:
    """Make an empty private file, owned like another when root makes it; it must not be there."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        give(descriptor, like)
    finally:
        os.close(descriptor)
