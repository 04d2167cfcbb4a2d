"""Finding the runs that the kernel has ended for lack of memory."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from dispatcher import wire
from dispatcher.executor.log import Log
from dispatcher.executor.phases import Phase
from dispatcher.executor.run import TrackedRun
from dispatcher.times import Instant

#: Seconds for which a counted kill may be a run's: a large process dies late.
KILL_AGE = 30.0

#: Kills that are kept at most of one look: as many as runs can end in it.
MOST_KILLS = 1000

#: The exit code by which a shell reports that a SIGKILL ended what it ran.
SIGKILL_REPORTED = 128 + signal.SIGKILL


class Kill(NamedTuple):
    """A counted kill that no run's end has used up."""

    at: Instant
    """When it was counted."""
    candidates: frozenset[wire.RunUid]
    """The runs that lived then; one of them may have lost a process to it."""


class OomKills:
    """Finds the runs among those just ended that the kernel ended for lack of memory.

    The kernel counts its kills and does not name them. So a run is one of them if its leader died
    of a SIGKILL that we did not send, or reports one, and a kill was counted while it lived that no
    other run's end has used up. That is certain if the kill was counted since that leader was last
    seen alive, or if no other run lived.
    """

    def __init__(
        self,
        count: Callable[[], int | None],
        live: Mapping[wire.RunUid, TrackedRun],
        log: Log,
    ) -> None:
        """`count` returns the kills that the kernel counted in our cgroup; None: it does not."""
        self._count = count
        self._live = live
        self._log = log
        self._counted = count()
        self._kills: deque[Kill] = deque()

    def look(self, at: Instant) -> None:
        """Add the kills since the last look, and drop those too old to be a run's end.

        Call it before the first run of a tick is added to the live ones, and before one is removed.
        """
        counted = self._count()
        if counted is None:
            return
        if self._counted is not None and counted > self._counted:
            kill = Kill(at, frozenset(self._live))
            self._kills.extend([kill] * min(counted - self._counted, MOST_KILLS))
        self._counted = counted
        while self._kills and self._kills[0].at < at - KILL_AGE:
            self._kills.popleft()

    def judge(self, runs: Iterable[TrackedRun], at: Instant) -> None:
        """Record it in the exits of the runs whose leaders have just ended so."""
        ended = [run for run in runs if has_just_ended(run)]
        if ended:
            self.look(at)
        suspects = [run for run in ended if reports_sigkill(run) and self._may_be_killed(run)]
        uids = {run.uid for run in suspects}
        possible = [kill for kill in self._kills if not kill.candidates.isdisjoint(uids)]
        used = possible[max(0, len(possible) - len(uids)) :]
        doubtful = len(used) < len(uids) or any(
            kill.at < at and not kill.candidates <= uids for kill in used
        )
        for kill in used:
            self._kills.remove(kill)
        for run in suspects:
            assert run.exit is not None
            run.exit = msgspec.structs.replace(run.exit, oom=True, oom_doubtful=doubtful)
            self._log("run.oom_killed", **run.ids, pid=run.pid, doubtful=doubtful)

    def _may_be_killed(self, run: TrackedRun) -> bool:
        return any(run.uid in kill.candidates for kill in self._kills)


def has_just_ended(run: TrackedRun) -> bool:
    """Whether a leader's exit, which no ending of ours preceded, was not reported yet."""
    return run.phase is Phase.LINGERING and run.exit is not None and not run.exit_recorded


def reports_sigkill(run: TrackedRun) -> bool:
    """Whether a leader died of SIGKILL, or reports that what it waited for did."""
    seen = run.exit
    return seen is not None and (
        seen.signal == signal.SIGKILL or seen.exit_code == SIGKILL_REPORTED
    )
