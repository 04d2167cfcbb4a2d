"""Which processes of a run got SIGKILL and when, and how a large tree is frozen before that.

Parts that are killed one after the other free their pids to the rest, and a fork bomb takes them at
once. A stopped process keeps its pid and forks no more.
"""

import signal

from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import Identity, Process
from dispatcher.times import Instant

#: Seconds after its first SIGKILL from which a process that lives is called unkillable.
UNKILLABLE_AFTER = 5.0

#: Walks that may find processes to stop before the tree gets SIGKILL all the same: some processes
#: cannot be stopped.
MOST_FREEZES = 4


class Kills:
    """Records which processes of one run were stopped, and which got SIGKILL."""

    def __init__(self) -> None:
        self.freezing = False
        """Whether the tree is being stopped, or is stopped and gets SIGKILL part by part."""
        self._freezes = 0
        self._stopped_now = 0
        self._stopped: set[Identity] = set()
        self._killed: dict[Identity, Instant] = {}

    def stop(self, kernel: Kernel, process: Process) -> None:
        """Stop a process that was not stopped before. OSError: the host is short of something."""
        if process.alive and process.identity not in self._stopped:
            kernel.signal(process, signal.SIGSTOP)
            self._stopped.add(process.identity)
            self._stopped_now += 1

    def may_kill(self, *, found_at_once: bool) -> bool:
        """Return whether SIGKILL may follow a walk; if not, another walk must stop the tree."""
        if not self.freezing:
            self.freezing = not found_at_once
            return found_at_once
        stopped, self._stopped_now = self._stopped_now, 0
        self._freezes += stopped > 0
        return not stopped or self._freezes > MOST_FREEZES

    def record_killed(self, processes: list[Process], at: Instant) -> bool:
        """Record who got SIGKILL; return whether some of the living got it for the first time."""
        new = {one.identity for one in processes if one.alive} - self._killed.keys()
        self._killed |= dict.fromkeys(new, at)
        return bool(new)

    def end_round(self) -> None:
        """Record that the whole tree got SIGKILL."""
        self.freezing = False
        self._freezes = 0

    def survivors(self, processes: list[Process], seen_since: Instant) -> list[Process]:
        """Return who of a whole tree lives long after its SIGKILL, and forget all that is gone.

        Each was looked at after `seen_since`.
        """
        there = {one.identity for one in processes if one.alive}
        self._stopped &= there
        self._killed = {one: at for one, at in self._killed.items() if one in there}
        last = seen_since - UNKILLABLE_AFTER
        old = {one for one, at in self._killed.items() if at <= last}
        return [one for one in processes if one.identity in old and one.alive] if old else []
