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
    """Return of which runs something lives here, or may, and what; they come with their outputs.

    A process that was there at the first of two looks and is dead may have left another behind.
    """
    first, second = _Look(runs), _Look(runs)
    found: dict[RunUid, str] = {}
    for uid, paths in runs.items():
        whole = second.whole and second.dead[uid] <= first.dead[uid]
        if said := next(_signs(second.living[uid], paths, whole=whole), None):
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


class _Look:
    """The processes of runs, found by their marks."""

    def __init__(self, uids: Collection[RunUid]) -> None:
        self.living: defaultdict[RunUid, list[str]] = defaultdict(list)
        self.dead: defaultdict[RunUid, set[int]] = defaultdict(set)
        self.whole = True
        """Whether no process can be missing."""
        wanted = marks.by_mark(uids)
        read: Mapping[int, int] = {}
        if wanted:
            read, self.whole = marks.read_marks()
        for pid, mark in read.items():
            if (uid := wanted.get(mark)) is None:
                continue
            if name := _living(pid):
                self.living[uid].append(name)
            else:
                self.dead[uid].add(pid)


def _living(pid: int) -> str | None:
    """Return a process by name, None if it has exited."""
    if not marks.lives(pid):
        return None
    with suppress(OSError):  # it is hidden from this user
        return f"{Path(f'/proc/{pid}/comm').read_text('utf-8', 'replace').strip()} ({pid})"
    return f"pid {pid}"
