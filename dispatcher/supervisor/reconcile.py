"""Compares the store's open runs with the executor's. Pure.

The same comparison serves a new daemon, a new executor, a new connection and an unknown commit.
"""

from collections.abc import Iterable

from msgspec import Struct

from dispatcher import wire
from dispatcher.execution import OpenRun
from dispatcher.times import Instant


class Differences(Struct, frozen=True):
    """What each side has to do; every step is idempotent."""

    live: tuple[tuple[OpenRun, wire.RunReport], ...]
    """Open in the store and alive: go on."""
    over: tuple[tuple[OpenRun, wire.Exited | None], ...]
    """Open in the store and no longer alive: settle. None: the executor does not know the run."""
    surplus: tuple[wire.RunReport, ...]
    """Alive and not open in the store: end, then forget. Never adopted."""
    settled: tuple[wire.RunReport, ...]
    """Gone and not open in the store: forget."""


def compare(
    open_runs: Iterable[OpenRun], reported: Iterable[wire.RunReport], *, at: Instant
) -> Differences:
    """Compare the runs open in the store with those that an executor reported."""
    unmatched = {report.uid: report for report in reported}
    live: list[tuple[OpenRun, wire.RunReport]] = []
    over: list[tuple[OpenRun, wire.Exited | None]] = []
    for run in open_runs:
        report = unmatched.pop(run.run_uid, None)
        if report is None:
            over.append((run, None))
        elif report.state is wire.RunState.GONE:
            over.append((run, exited(report, at=at)))
        else:
            live.append((run, report))
    rest = tuple(unmatched.values())
    return Differences(
        live=tuple(live),
        over=tuple(over),
        surplus=tuple(report for report in rest if report.state is not wire.RunState.GONE),
        settled=tuple(report for report in rest if report.state is wire.RunState.GONE),
    )


def exited(report: wire.RunReport, *, at: Instant) -> wire.Exited:
    """Return the exit of a run reported gone; without a status if nobody saw it."""
    vanished = wire.Exit(at=at)
    return wire.Exited(uid=report.uid, exit=report.exit or vanished, ended_by=report.ended_by)
