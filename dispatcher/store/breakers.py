"""Breakers of queues, on an engine: what they count, and what a claim does with one."""

from collections.abc import Callable, Mapping
from typing import Final

from dispatcher.breakers import Decision, Health, decide
from dispatcher.events import EventKind
from dispatcher.limit_views import LimitView
from dispatcher.model import Outcome
from dispatcher.store.engine import Engine
from dispatcher.store.statements import limits as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime

#: Milliseconds for which results are kept beyond the window, as transactions of several nodes
#: commit in another order than they begin.
_SLACK: Final = 60_000

#: Called with what a limit did, its name and the reason.
Changed = Callable[[EventKind, str, str], None]


def record(engine: Engine, results: Mapping[str, int], now: StoreTime) -> None:
    """Count failures of queues by their limits; 0: some of its runs have succeeded."""
    rows = [{"name": name, "many": many} for name, many in sorted(results.items())]
    engine.later(sql.RESULT, {"given": rows_of(rows), "now": now})


def judge(
    engine: Engine, view: LimitView, *, who: str, changed: Changed, now: StoreTime
) -> Decision:
    """Return what a claim may start of a queue whose limit it has locked; close or open that."""
    breaker, closing = None if view.rule is None else view.rule.breaker, view.closing
    if breaker is None or closing is None:
        return Decision(None)
    name, since = closing.name, now - breaker.window_ms
    if closing.probe is not None:
        since = closing.closed_at or now
    elif closing.counted_from is not None:
        since = max(since, closing.counted_from)
    values = {"name": name, "since": since, "probe": closing.probe or None}
    ((succeeded_at, failures, probe),) = engine.rows(sql.HEALTH, values)
    health = Health(
        running=view.running,
        failures=failures or 0,
        succeeded_at=None if succeeded_at is None else StoreTime(succeeded_at),
        probe=None if probe is None else probe if probe == "open" else Outcome(probe),
    )
    found = decide(breaker, closing, health, now)
    if found.does == "close":
        reason = found.reason or ""
        values = {"name": name, "now": now, "until": found.opens_at, "reason": reason, "who": who}
        engine.change(sql.CLOSE, {**values, "probe": ""})
        changed(EventKind.LIMIT_CLOSED, name, reason)
    elif found.does == "open":
        engine.change(sql.OPEN, {"name": name, "now": now})
        changed(EventKind.LIMIT_OPENED, name, found.reason or "")
    elif found.does == "forget the probe":
        engine.change(sql.PROBE, {"name": name, "probe": ""})
    elif closing.probe is None:
        before = now - breaker.window_ms - _SLACK
        engine.later(sql.FORGET_RESULTS, {"name": name, "before": before})
    return found


def begin_probe(engine: Engine, name: str, uid: str) -> None:
    """Record the run that may open a limit."""
    engine.change(sql.PROBE, {"name": name, "probe": uid})
