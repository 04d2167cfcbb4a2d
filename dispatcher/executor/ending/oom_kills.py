"""Finding the runs that the kernel has ended for lack of memory."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import msgspec

from dispatcher.executor.log import Log
from dispatcher.executor.phases import Phase
from dispatcher.executor.run import TrackedRun
from dispatcher.times import Instant

#: Seconds for which a counted kill may be a run's: a large process dies late.
KILL_AGE = 30.0

#: Seconds after which a counted kill is no longer surely that of a run that ends: two looks.
SURE_AGE = 2.0

#: Kills that are kept at most: as many as runs can end in one look.
MOST_KILLS = 1000

#: The exit code by which a shell reports that a SIGKILL ended what it ran.
SIGKILL_REPORTED = 128 + signal.SIGKILL


class Counts(Protocol):
    """The part of the kernel that is used here."""

    def oom_kills(self) -> int | None:
        """Return how many processes of our cgroup it has ended so, if it counts."""


class OomKills:
    """Finds the runs among those just ended that the kernel ended for lack of memory.

    The kernel counts its kills and does not name them. So a run is one of them if its leader died
    of a SIGKILL that we did not send, or reports one, and a kill was counted that no other run's
    end has used up.
    """

    def __init__(self, kernel: Counts, log: Log) -> None:
        self._kernel = kernel
        self._log = log
        self._counted: int | None = None
        self._kills: deque[Instant] = deque()
        """When each was counted that no run's end has used up."""

    def begin(self) -> None:
        """Count from now on: earlier kills were no run's."""
        self._kills.clear()
        self._counted = self._kernel.oom_kills()

    def look(self, at: Instant) -> None:
        """Add the kills since the last look, and drop those too old to be a run's end."""
        counted = self._kernel.oom_kills()
        if counted is None:
            return
        self._kills.extend([at] * min(counted - (self._counted or 0), MOST_KILLS))
        self._counted = counted
        while self._kills and self._kills[0] < at - KILL_AGE:
            self._kills.popleft()

    def judge(self, runs: Iterable[TrackedRun], at: Instant) -> None:
        """Record it in the exits of the runs whose leaders have just ended so."""
        suspects = [run for run in runs if is_suspect(run)]
        if not suspects:
            return
        self.look(at)
        kills = min(len(self._kills), len(suspects))
        if not kills:
            return
        used = [self._kills.pop() for _ in range(kills)]
        doubtful = kills < len(suspects) or min(used) < at - SURE_AGE
        for run in suspects:
            assert run.exit is not None
            run.exit = msgspec.structs.replace(run.exit, oom=True, oom_doubtful=doubtful)
            self._log("run.oom_killed", **run.ids, pid=run.pid, doubtful=doubtful)


def is_suspect(run: TrackedRun) -> bool:
    """Whether a leader's exit shows a SIGKILL that is not ours."""
    if run.phase is not Phase.LINGERING or run.exit is None or run.exit_noted:
        return False
    return run.exit.signal == signal.SIGKILL or run.exit.exit_code == SIGKILL_REPORTED
