"""A look at this host for processes of runs that no executor knows: by output lock and by mark.

Neither needs the executor that started them, its journal, or the same pid namespace for the lock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from dispatcher import marks, output_files
from dispatcher.wire import RunUid

#: Processes of a run that are named.
NAMED = 3


def survivors(runs: Mapping[RunUid, Collection[str]]) -> Mapping[RunUid, str]:
    """Return of which runs something lives here, or may, and what; they come with their outputs."""
    processes, whole = _marked(runs)
    found: dict[RunUid, str] = {}
    for uid, paths in runs.items():
        if said := next(_signs(processes[uid], paths, whole=whole), None):
            found[uid] = said
    return found


def _signs(processes: list[str], paths: Collection[str], *, whole: bool) -> Iterator[str]:
    if processes:
        yield f"its processes live on this host: {', '.join(processes[:NAMED])}"
    if not whole:
        yield "nobody can tell whether it lives: processes come and go while they are looked at"
    for path in paths:
        try:
            if output_files.is_held(path):
                yield f"a process on this host still has its output open: fuser -v {path}"
        except OSError as error:
            told = f"nobody can tell whether it lives: {path}: {error.strerror}"
            yield f"{told}; let this user open it"


def _marked(uids: Collection[RunUid]) -> tuple[defaultdict[RunUid, list[str]], bool]:
    """Return the living processes of runs by name; and whether none can be missing."""
    wanted = marks.by_mark(uids)
    found: defaultdict[RunUid, list[str]] = defaultdict(list)
    if not wanted:
        return found, True
    read, whole = marks.read_marks()
    for pid, mark in read.items():
        if (uid := wanted.get(mark)) is not None:
            found[uid] += _living(pid)
    return found, whole


def _living(pid: int) -> list[str]:
    """Return a process by name, unless it has exited."""
    if not marks.lives(pid):
        return []
    with suppress(OSError):  # it is hidden from this user
        return [f"{Path(f'/proc/{pid}/comm').read_text('utf-8', 'replace').strip()} ({pid})"]
    return [f"pid {pid}"]
