"""The daemon's log: its set-up, by the catalogue of all events.

JSON lines on stdout, records if that is systemd's journal, coloured lines on a terminal. An event
is a stable `noun.verb_past` of the catalogue; its facts are fields, numbers with their unit in the
name.
"""

import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from dispatcher import times
from dispatcher.config.config import Config
from dispatcher.logs import catalogue, console, journald, records
from dispatcher.logs.logger import Logger
from dispatcher.logs.out import LogStream, descriptor_of
from dispatcher.logs.repeats import Repeats
from dispatcher.times import Instant, iso, wall_clock

#: Fields that hold secrets wherever they appear.
SECRET = frozenset({"lock", "env", "payload"})

#: The name of this process in the journal.
PROGRAM = "dispatcher"

_numbers = itertools.count(1)

_processors: list[Processor] = []

_encode = msgspec.json.Encoder(enc_hook=str).encode


#: The repetitions of this process.
repeats = Repeats()


class NotInCatalogue(Exception):
    """A line that the catalogue does not describe; add the event or the field to it."""


class SecretField(Exception):
    """An event with a field that holds a secret; leave the field out."""


def set_up(
    config: Config,
    *,
    node: str = "",
    stream: TextIO | None = None,
    strict: bool = False,
    before_line: str = "",
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], Instant] = times.instant,
) -> None:
    """Write every event of the configured level and above to `stream` (stdout), line by line.

    A reader of `stream` that has stopped costs lines (`log.dropped`), never time. `before_line`
    erases a bar on a terminal before each line. JSON lines and records name the `node`. Without a
    journald, lines are written instead of records (`log.unjournaled`).

    `strict`, for tests, raises `NotInCatalogue` for a line unlike its entry and `SecretField` for a
    secret; otherwise the line is written without the secret. A second call replaces the first.
    """
    stream, form = stream or sys.stdout, config.logs.format
    journal, why_not = journald.connected(form, descriptor_of(stream), environ)
    identifier = None if journal is None else journald.identifier(PROGRAM, environ)
    _out.redirect(stream, journal, before_line=before_line, clock=clock)
    drawn = form == "console" or (form == "auto" and stream.isatty())
    prefixed = form == "auto" and journald.leads_to(descriptor_of(stream), environ)
    # Changed in place: loggers keep the list, as finding it takes a tenth of a tick.
    _processors[:] = [
        _gate(getattr(logging, config.logs.level.upper()), clock),
        *((_refuse_secrets, _refuse_unknown) if strict else (_drop_secrets,)),
        *_written(node, identifier=identifier, drawn=drawn, prefixed=prefixed),
    ]
    structlog.configure(
        processors=_processors,
        wrapper_class=Logger,
        logger_factory=lambda *_: _out,
        cache_logger_on_first_use=True,
    )
    if why_not is not None:
        structlog.get_logger().warning("log.unjournaled", reason=why_not)


def in_journal() -> bool:
    """Return whether lines become records of systemd's journal."""
    return _out.in_journal


def due() -> Instant:
    """Return when to `flush`."""
    return min(repeats.due, _out.due)


def flush(at: Instant) -> None:
    """Write as much of the queue as the reader takes, and report repetitions that have ended."""
    _out.retry()
    if at >= repeats.due:
        _report_ended(repeats.ended(at))


def report_left_out() -> None:
    """Report the lines left out and not reported yet: the process ends."""
    _report_ended(repeats.unreported())


def close(*, within: float) -> None:
    """Give the reader so many seconds to take the queue."""
    _out.close(within=within)


def _report_ended(ended: Iterable[Mapping[str, object]]) -> None:
    for facts in ended:
        structlog.get_logger().info("error.ceased", **facts)


def _gate(lowest: int, clock: Callable[[], Instant]) -> Processor:
    """Return the processor that drops lines below the level, or repeated too often.

    Gates are by event: most events have none, and cost one look-up.
    """
    gates: dict[str, Callable[[EventDict], None]] = {}
    for name, event in catalogue.DAEMON.items():
        if getattr(logging, event.level.upper()) < lowest:
            gates[name] = _drop
        elif event.same_by is not None:
            gates[name] = _at_times(event.same_by, clock)

    def pass_through(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if event["event"] in gates:
            gates[event["event"]](event)
        return event

    return pass_through


def _drop(_event: EventDict) -> None:
    raise structlog.DropEvent


def _at_times(
    same_by: tuple[str, ...], clock: Callable[[], Instant]
) -> Callable[[EventDict], None]:
    def gate(event: EventDict) -> None:
        left_out = repeats.admit(event["event"], same_by, event, clock())
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out

    return gate


def _refuse_unknown(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    name = event["event"]
    if name not in catalogue.DAEMON:
        raise NotInCatalogue(f"{name!r} is not in the catalogue, dispatcher/logs/catalogue.py")
    written = {"timestamp": "", "sequence": 0, "level": method, **event}
    if "exc_info" in written:
        written["exception"] = str(written.pop("exc_info"))
    if mistakes := catalogue.DAEMON[name].mistakes(written):
        raise NotInCatalogue(f"{name!r} {'; '.join(mistakes)}")
    return event


def _refuse_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if found := SECRET & event.keys():
        raise SecretField(f"{event['event']!r} would show {', '.join(sorted(found))}")
    return event


def _drop_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if not SECRET.isdisjoint(event):
        for secret in SECRET & event.keys():
            del event[secret]
    return event


def _written(node: str, *, identifier: str | None, drawn: bool, prefixed: bool) -> list[Processor]:
    """Return the processors that form a line: a record of the journal if it has our name."""
    if identifier is not None:
        return [_facts_of(node), _recorded_as(identifier)]
    if drawn:
        return [_facts_of(""), _drawn]
    return [_facts_of(node), _in_json, *((_prefixed,) if prefixed else ())]


def _prefixed(_logger: WrappedLogger, method: str, line: str) -> str:
    return journald.PREFIX[method] + line


def _drawn(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    """Return a line for people; the width of a terminal is that of now."""
    colours = _out.stream.isatty() and not os.environ.get("NO_COLOR")
    return console.line(fields, columns=_columns(_out.stream), colours=colours)


def _columns(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None for anything else."""
    try:
        return os.get_terminal_size(descriptor_of(stream)).columns or None
    except OSError:
        return None


def _facts_of(node: str) -> Processor:
    """Return the processor that adds time, level, sequence and node to an event."""
    node_fields = {"node": node} if node else {}

    def facts(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        fields = {
            "timestamp": iso(wall_clock()),
            "level": method,
            "event": event.pop("event"),
            "sequence": next(_numbers),
            **event,
            **node_fields,
        }
        if "exc_info" in fields:
            fields = dict(structlog.processors.format_exc_info(logger, method, fields))
        return fields

    return facts


def _in_json(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    try:
        return _encode(fields).decode()
    except (UnicodeError, TypeError):  # bytes of a foreign encoding, keys that are not texts
        return json.dumps(fields, default=str, skipkeys=True)


def _recorded_as(identifier: str) -> Processor:
    def recorded(_logger: WrappedLogger, _method: str, fields: EventDict) -> bytes:
        return records.record(fields, identifier=identifier)

    return recorded


def _report_dropped(lines: int) -> None:
    structlog.get_logger().warning("log.dropped", lines=lines)


_out = LogStream(_report_dropped)
