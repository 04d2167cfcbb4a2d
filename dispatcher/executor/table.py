"""The runs that this executor knows, and when they need attention."""

from collections.abc import Iterable

from dispatcher import wire
from dispatcher.executor.run import TrackedRun
from dispatcher.least import Least
from dispatcher.times import Instant

#: Seconds that a daemon which has just connected is given to confirm runs before its absence is
#: judged: it may have waited to be let in while this process was stopped. Given again only after a
#: start or a confirmation.
FIRST_WORD = 2.0


class RunTable:
    """Runs by uid, and the kill deadlines of those that live: they are never moved back."""

    def __init__(self) -> None:
        self.known: dict[wire.RunUid, TrackedRun] = {}
        """All that are not forgotten."""
        self.live: dict[wire.RunUid, TrackedRun] = {}
        """Those that are not gone."""
        self.attention: dict[wire.RunUid, TrackedRun] = {}
        """Those to be looked at in this tick."""
        self._due: Least[TrackedRun] = Least()
        self._absence_delayed = False

    @property
    def due(self) -> Instant:
        """When the next of those that live needs attention."""
        return Instant(self._due.value)

    def take_due(self, at: Instant) -> Iterable[TrackedRun]:
        """Yield each live run that is due, and plan its next instant after that."""
        for run in self._due.take(at):
            if run.uid in self.live:
                if run.due <= at:
                    yield run
                self.record_due(run)

    @property
    def has_unsettled(self) -> bool:
        """Whether the daemon has not settled all runs that it was informed of."""
        return any(not run.forget_later for run in self.known.values())

    def add(self, run: TrackedRun) -> None:
        """Add a run that the daemon has just requested."""
        self.known[run.uid] = self.live[run.uid] = run
        self._absence_delayed = False
        self.record_due(run)

    def remove(self, run: TrackedRun) -> None:
        """Remove a run that has no process."""
        del self.known[run.uid]
        self.attention.pop(run.uid, None)
        self.record_gone(run)

    def record_gone(self, run: TrackedRun) -> None:
        """Record that nothing of a run is left."""
        del self.live[run.uid]
        self._due.remove(run)

    def record_due(self, run: TrackedRun) -> None:
        """Take a run's next instant into account."""
        self._due.set(run, run.due)

    def delay_absence(self, at: Instant) -> None:
        """Give the daemon that has just connected time to confirm its runs."""
        if not self._absence_delayed:
            self._absence_delayed = True
            for run in self.live.values():
                if (deadline := run.deadlines.get(wire.EndedBy.ABSENCE)) is not None:
                    run.deadlines[wire.EndedBy.ABSENCE] = max(deadline, at + FIRST_WORD)

    def renew(self, deadlines: dict[wire.RunUid, dict[str, float]]) -> None:
        """Move kill deadlines as the daemon requests."""
        self._absence_delayed = False
        for uid, moved in deadlines.items():
            if run := self.known.get(uid):
                self._move(run, moved)

    def extend(self, uid: wire.RunUid, until: Instant) -> None:
        """Move a run's time-out as its worker requests, as far as it may."""
        run = self.known.get(uid)
        if run is not None and run.longest is not None:
            run.until = min(run.longest, max(until, run.until or until))
            self._move(run, {wire.EndedBy.RUN_TIMEOUT: run.until + wire.BACKSTOP})

    def _move(self, run: TrackedRun, moved: dict[str, float]) -> None:
        for name, instant in moved.items():
            run.deadlines[name] = max(instant, run.deadlines.get(name, instant))
        self.record_due(run)
