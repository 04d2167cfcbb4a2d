"""A look at this host for processes of runs that no executor knows: by output lock and by mark.

Neither needs the executor that started them, its journal, or the same pid namespace for the lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from dispatcher.executor_api import END_THEM
from dispatcher.host import marks, output_files
from dispatcher.host.hidden import HiddenPids
from dispatcher.wire import RunUid

#: Processes of a run that are named.
NAMED = 3


_hidden = HiddenPids()


def survivors(runs: Mapping[RunUid, Collection[str]]) -> Mapping[RunUid, str]:
    """Return of which runs something lives here, or may, and what; they come with their outputs.

    A process that was there at the first of two looks and is dead may have left another behind.
    """
    first, second = marks.MarkedProcesses(runs, _hidden), marks.MarkedProcesses(runs, _hidden)
    found: dict[RunUid, str] = {}
    for uid, paths in runs.items():
        whole = second.whole and second.dead[uid] <= first.dead[uid]
        if said := next(_signs(second.living[uid], paths, whole=whole), None):
            found[uid] = said
    return found


def _signs(processes: list[str], paths: Collection[str], *, whole: bool) -> Iterator[str]:
    if processes:
        yield f"its processes live on this host: {', '.join(processes[:NAMED])}{END_THEM}"
    if not whole:
        yield "nobody can tell whether it lives: processes come and go while they are looked at"
    for path in paths:
        try:
            if output_files.is_held(path):
                told = f"a process on this host still has its output open (fuser -v {path})"
                yield f"{told}{END_THEM}"
        except OSError as error:
            told = f"it may live, as its output {path} cannot be opened: {error.strerror}"
            yield f"{told}; let this user open it"
