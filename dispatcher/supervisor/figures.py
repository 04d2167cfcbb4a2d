"""Counters and histograms of one daemon, shown by `dispatcher metrics`.

They start at zero with each daemon, as Prometheus expects of counters.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dispatcher.daemon_report import FiguresReport, HistogramReport
from dispatcher.model import Outcome
from dispatcher.times import Instant

#: Upper bounds in seconds: for a tick, and for the time from the decision to end a run until its
#: whole process tree is gone.
TICK_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
KILL_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0)


class Histogram:
    """Durations, counted by interval."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def report(self) -> HistogramReport:
        return HistogramReport(
            bounds=tuple(self._bounds), counts=tuple(self._counts), sum=round(self._total, 6)
        )


@dataclass(slots=True)
class Figures:
    """One daemon's figures. An instant is None until its event has happened."""

    ticks: Histogram = field(default_factory=lambda: Histogram(TICK_BOUNDS))
    kills: Histogram = field(default_factory=lambda: Histogram(KILL_BOUNDS))
    claims: int = 0
    settled: Counter[Outcome] = field(default_factory=Counter)
    began_at: Instant | None = None
    reaped_at: Instant | None = None
    claimed_at: Instant | None = None
    started_at: Instant | None = None
    """When a worker last started."""

    def report(self) -> FiguresReport:
        return FiguresReport(
            claims=self.claims,
            settled={outcome.value: self.settled[outcome] for outcome in Outcome},
            ticks=self.ticks.report(),
            kills=self.kills.report(),
        )
