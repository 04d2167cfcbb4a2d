"""The checks of free space, by filesystem."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dispatcher.config.config import Config
from dispatcher.doctor.finding import Finding, bad, ok, warning
from dispatcher.store.open import database_path

#: Bytes of free space below which work stops soon: of a store that grows, and of sockets and the
#: executor's journal (1 MiB, twice while it is compacted).
LEAST_ROOM = 16 << 20
LEAST_FOR_SOCKETS = 4 << 20

#: Bytes of free space below which a store needs room; for output it is `[output] free_floor`.
ENOUGH_ROOM = 64 << 20


def rooms(config: Config) -> Iterator[Finding]:
    """Check the free space of each filesystem once."""
    floor = max(ENOUGH_ROOM, int(config.output.free_floor))
    places = [
        _Place("state directory", config.state_dir, LEAST_ROOM, floor),
        _Place("runtime directory", config.runtime_dir, LEAST_FOR_SOCKETS, LEAST_FOR_SOCKETS),
    ]
    if (database := database_path(config.store_url)) is not None:
        places.append(_Place("database", database.parent, LEAST_ROOM, ENOUGH_ROOM))
    seen: dict[int, list[_Place]] = {}
    for place in places:
        with suppress(OSError):
            seen.setdefault(existing(place.path).stat().st_dev, []).append(place)
    for sharing in seen.values():
        yield _room(sharing)


class _Place(NamedTuple):
    name: str
    path: Path
    least: int
    """Bytes below which work stops soon."""
    enough: int
    """Bytes below which to make room."""


def _room(sharing: Sequence[_Place]) -> Finding:
    """Check the filesystem that these places share."""
    place = existing(sharing[0].path)
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    text = f"{free / 2**20:,.0f} MiB free for {', '.join(one.name for one in sharing)}"
    remedy = f"make room on the filesystem of {place}"
    if free < max(one.least for one in sharing) or (room.f_files and not room.f_favail):
        files = "" if room.f_favail else ", and no free inode"
        return bad("room", text + files, remedy)
    if free >= max(one.enough for one in sharing):
        return ok("room", text)
    if any(one.name == "state directory" for one in sharing):
        remedy += ", or delete tasks that finished long ago: dispatcher prune"
    return warning("room", text, remedy)


def existing(path: Path) -> Path:
    """Return the nearest directory above a path, or itself, that this user can see."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))
