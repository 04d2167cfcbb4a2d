"""A look at this host for processes of runs that no executor knows: by output lock and by mark.

Neither needs the executor that started them, its journal, or the same pid namespace for the lock.
"""

from __future__ import annotations

import os
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

    Two looks find nothing where nothing is: what forks in the middle of one is seen in the other.
    """
    found: dict[RunUid, str] = {}
    for _ in range(2):
        left = {uid: paths for uid, paths in runs.items() if uid not in found}
        processes = _marked(left)
        for uid, paths in left.items():
            if said := next(_signs(processes[uid], paths), None):
                found[uid] = said
    return found


def _signs(processes: list[str], paths: Collection[str]) -> Iterator[str]:
    if processes:
        yield f"its processes live on this host: {', '.join(processes[:NAMED])}"
    for path in paths:
        try:
            if output_files.is_held(path):
                yield f"a process on this host still has its output open: fuser -v {path}"
        except OSError as error:
            told = f"nobody can tell whether it lives: {path}: {error.strerror}"
            yield f"{told}; let this user open it"


def _marked(uids: Collection[RunUid]) -> defaultdict[RunUid, list[str]]:
    wanted = marks.by_mark(uids)
    found: defaultdict[RunUid, list[str]] = defaultdict(list)
    if wanted:
        for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of them
            if name.isdigit() and (uid := wanted.get(marks.read_mark(int(name)) or 0)) is not None:
                with suppress(OSError):  # it is gone
                    found[uid] += _living(int(name))
    return found


def _living(pid: int) -> list[str]:
    """Return a process by name, unless it is one that nobody has reaped yet."""
    name, _, fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")
    state, threads = fields.split()[0], int(fields.split()[17])
    return [] if state in "ZX" and threads <= 1 else [f"{name.partition(' (')[2]} ({pid})"]
