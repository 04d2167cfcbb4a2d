"""Events as JSON that other programs rely on, and as lines for people."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict

from dispatcher.calendar import Calendar
from dispatcher.cli import render
from dispatcher.events import Actor, StoreEvent, actor_from

#: Characters of a node's id that name it.
_ID = 8


def event_json(event: StoreEvent, calendar: Calendar) -> dict[str, Any]:
    """Return an event with every key that other programs rely on."""
    return {
        "at": calendar.iso(event.at),
        "event": event.kind,
        "task_id": event.task_id,
        "queue": event.queue,
        "subject": event.subject,
        "fence": event.fence,
        "before": event.before,
        "after": event.after,
        "who": asdict(actor_from(event.who)),
        "reason": event.reason,
    }


def row(event: StoreEvent, time: str, hosts: Mapping[str, str]) -> tuple[str, ...]:
    """Return time, event, change of state, who, and why; `hosts`: the nodes' names, by id."""
    who = actor_from(event.who)
    kind = event.kind.replace("_", " ")
    if event.subject is not None:
        kind = f"{kind} {hosts.get(event.subject, event.subject)}"
    return (
        time,
        render.line(kind),
        _change(event),
        render.line(who_text(who, hosts)),
        render.line(event.reason or ""),
    )


def line(event: StoreEvent, time: str, hosts: Mapping[str, str]) -> str:
    """Return an event on a line of its own, with its task."""
    time, kind, change, who, why = row(event, time, hosts)
    task = "" if event.task_id is None else f"task {event.task_id}"
    return f"{time:<24}  {task:<12} {kind:<10} {change:<20} {who:<16} {why}".rstrip()


def _change(event: StoreEvent) -> str:
    if event.before is not None and event.after not in (None, event.before):
        return f"{event.before} -> {event.after}"
    return event.after or event.before or ""


def who_text(who: Actor, hosts: Mapping[str, str]) -> str:
    """Return who did something; a node by its host."""
    if who.node is not None:
        return hosts.get(who.node, who.node[:_ID])
    if who.uid is None:
        return who.user or who.kind
    return f"{who.user} (sudo {who.sudo_user})" if who.sudo_user else str(who.user)
