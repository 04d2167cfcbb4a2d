"""Looks on this host for processes of runs that no executor knows: by output lock and by mark.

Neither needs their executor or its journal, and the lock needs not even the same pid namespace.
"""

from collections.abc import Collection, Iterator, Mapping

from dispatcher.executor_api import END_THEM
from dispatcher.host import marks, output_files
from dispatcher.host.hidden import HiddenPids
from dispatcher.wire import RunUid

#: Processes of a run that are named.
NAMED = 3

_hidden = HiddenPids()


def survivors(runs: Mapping[RunUid, Collection[str]]) -> Mapping[RunUid, str]:
    """Return the runs of which something lives here, or may, with the evidence.

    `runs` come with the paths of their outputs. There are two looks, as a process that is dead at
    the second may have left a child since the first.
    """
    first, second = marks.MarkedProcesses(runs, _hidden), marks.MarkedProcesses(runs, _hidden)
    found: dict[RunUid, str] = {}
    for uid, paths in runs.items():
        whole = second.whole and second.dead[uid] <= first.dead[uid]
        if evidence := next(_evidence(second.living[uid], paths, whole=whole), None):
            found[uid] = evidence
    return found


def _evidence(processes: list[str], paths: Collection[str], *, whole: bool) -> Iterator[str]:
    if processes:
        yield f"its processes live on this host: {marks.listed(processes, NAMED)}{END_THEM}"
    if not whole:
        yield "it is unknown whether it lives: processes started and ended during the look"
    for path in paths:
        try:
            if output_files.is_held(path):
                text = f"a process on this host still has its output open (fuser -v {path})"
                yield f"{text}{END_THEM}"
        except OSError as error:
            text = f"it may live, as its output {path} cannot be opened: {error.strerror}"
            yield f"{text}; let this user open it"
