"""Named limits as JSON that other programs rely on, and as lines for people."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dispatcher.calendar import Calendar
from dispatcher.cli import render
from dispatcher.limit_views import LimitView


def limit_json(view: LimitView, calendar: Calendar) -> dict[str, Any]:
    """Return a limit with every key that other programs rely on."""
    rule, closed = view.rule, view.closed(calendar.now)
    return {
        "limit": view.name,
        "configured": rule is not None,
        "concurrency": rule and rule.concurrency,
        "rate": None if rule is None or rule.rate is None else str(rule.rate),
        "held": view.held,
        "holders": {str(task): many for task, many in view.holders.items()},
        "started": view.started,
        "next_start_at": render.moment(view.next_start_at, calendar),
        "closed_at": render.moment(None if closed is None else closed.closed_at, calendar),
        "closed_until": render.moment(None if closed is None else closed.closed_until, calendar),
        "closed_reason": closed and closed.closed_reason,
        "closed_by": closed and closed.closed_by,
        "probes": closed is not None and closed.probe is not None,
    }


def limits_json(views: Iterable[LimitView], calendar: Calendar) -> list[dict[str, Any]]:
    """Return limits in the same form."""
    return [limit_json(view, calendar) for view in views]


def row(view: LimitView, calendar: Calendar) -> tuple[str, ...]:
    """Return name, what it allows, how much is held, started, by whom, and its state."""
    rate = view.rule and view.rule.rate
    return (
        view.name,
        "not configured" if view.rule is None else str(view.rule),
        str(view.held),
        str(view.started) if rate else "",
        view.holders_text() if view.holders else "",
        _state(view, calendar),
    )


def _state(view: LimitView, calendar: Calendar) -> str:
    closed = view.closed(calendar.now)
    if closed is None:
        return "open"
    until = "" if closed.probe is None else " until a probe succeeds"
    if not until and closed.closed_until is not None:
        until = f" until {calendar.iso(closed.closed_until)}"
    return f"closed{until}: {closed.closed_reason}"


def lines(limits: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the closed limits as lines of `status`; `limits`: as `limit_json` returns them."""
    for one in limits:
        if one["closed_at"] is not None:
            until = one["closed_until"]
            when = "" if until is None else f" until {until}"
            when = " until a probe succeeds" if one["probes"] else when
            remedy = f"dispatcher limit open {one['limit']}"
            text = f"limit     {one['limit']} is closed{when}: {one['closed_reason']}; {remedy}"
            yield render.line(text)
