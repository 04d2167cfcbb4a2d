"""Lines for a person at a terminal: one for each event, with what is particular to it first."""

from collections.abc import Iterator, Mapping

from dispatcher.logs import records

#: Levels whose lines are never cut: what they name, and the remedy, is nowhere else.
_WHOLE = frozenset({"warning", "error", "critical"})

#: Keys that many events have, after those that only this event has.
_LAST = ("attempt", "queue", "pid", "run_id", "fence")

_COLOURS = {"debug": "2", "info": "36", "warning": "33", "error": "31", "critical": "31"}


def line(fields: Mapping[str, object], *, columns: int | None, colours: bool) -> str:
    """Return an event as a line, cut to so many columns unless it is a warning or an error.

    An exception follows on lines of its own.
    """
    level, event = str(fields["level"]), str(fields["event"])
    before = f"{str(fields['timestamp'])[11:19]} {f'{level} ' if level in _WHOLE else ''}"
    facts = f" {records.in_a_line(fields['message'])}" if "message" in fields else ""
    facts += "".join(f" {records.pair(key, value)}" for key, value in _in_order(fields))
    room = None if columns is None or level in _WHOLE else columns - len(before) - len(event)
    if room is not None and len(facts) > room:
        facts = facts[: max(0, room - 1)] + "…"
    if colours:
        event = f"\x1b[{_COLOURS.get(level, '0')}m{event}\x1b[0m"
    exception = str(fields.get("exception", "")).rstrip()
    return f"{before}{event}{facts}" + (f"\n{exception}" if exception else "")


def _in_order(fields: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the facts to show: the task, the event's own, those of its run.

    A message comes before them.
    """
    left_out = {*records.NOT_SHOWN, "exception", "message", "task_id", *_LAST}
    own = (key for key in fields if key not in left_out)
    for key in ("task_id", *own, *_LAST):
        if fields.get(key) is not None:
            yield key, fields[key]
