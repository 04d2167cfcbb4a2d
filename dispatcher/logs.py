"""The structured log: set up in one place, with the catalogue of everything it may say.

JSON lines on stdout, drawn for people on a terminal. An event is a stable `noun.verb_past` of the
catalogue; what happened to whom stands in fields, numbers with their unit in the name.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from dispatcher.config import Config
from dispatcher.times import iso, wall_clock

#: Every event and what it says, in one sentence.
CATALOGUE: Mapping[str, str] = MappingProxyType(
    {
        "daemon.started": "The daemon holds its locks, the store answered, the loop turns.",
        "daemon.signalled": "A signal arrived that stops the daemon or makes it read its file.",
        "daemon.stopping": "The daemon was asked to stop: it claims nothing more.",
        "daemon.stopped": "The daemon's last word.",
        "daemon.waiting": "The daemon waits for something that it needs, and says for what.",
        "executor.started": "The daemon started an executor, since none was listening.",
        "executor.connected": "An executor greeted the daemon and named its runs.",
        "executor.incompatible": "The executor speaks another version; nothing new is started.",
        "executor.exited": "An executor that the daemon had started ended.",
        "executor.answered": "The executor answers again after a silence.",
        "executor.lost": "The connection to the executor ended; its last word stands.",
        "executor.silent": "The executor did not answer in time; nothing is started.",
        "claim.taken_over": "A claim's owner was silent for too long, or local and done: settled.",
        "task.claimed": "A task was claimed; its run is opened and about to start.",
        "task.timed_out": "A task failed without a run: it waited longer than it may.",
        "run.started": "The run's process lives.",
        "run.ending": "It was decided to end a run; its lock is void from here on.",
        "run.settled": "The run's whole process tree is gone, its outcome is written.",
        "run.reconciled": "What the executor knows of a run was brought together with the store.",
        "run.unknown": "The executor has a run that the store does not know; it is ended.",
        "run.declared": "A worker said how it ends; effective when its process is gone.",
        "lease.renewed": "A worker's heartbeat renewed its lease (debug).",
        "lease.refused": "A worker spoke for a claim that is not its own; nothing was written.",
        "lease.expired": "A worker did not beat in time; its run is being ended.",
        "daemon.was_away": "Leases expired while the daemon was away: renewed once, not reaped.",
        "worker.leader_exited": "A worker's first process exited; others of its tree may live.",
        "worker.leftover_ended": "Processes outlived their worker's first process and were ended.",
        "worker.stray": "A process was found that several runs may have started.",
        "worker.unkillable": "A process survived SIGKILL; its slot and claim stay held.",
        "node.paused": "This host cannot start processes; nothing is claimed for a while.",
        "node.resumed": "This host can start processes again.",
        "store.unavailable": "The store did not answer; nothing was written, workers go on.",
        "store.recovered": "The store answers again.",
        "store.refused": "One operation broke a rule of the schema and was left out.",
        "store.reconciling": "A commit got no clear answer; the store decides what happened.",
        "clock.stepped": "The wall clock jumped; live leases are renewed instead of reaped.",
        "metrics.unwritten": "The file of metrics cannot be written; told once until it changes.",
        "metrics.written": "The file of metrics is written again.",
        "config.reloaded": "The configuration was read again: what changed, and what was kept.",
        "config.refused": "The file has mistakes; the configuration that held before still does.",
    }
)

#: Fields that hold secrets wherever they appear.
SECRET = frozenset({"lock", "env", "payload"})

_LEVELS = ("debug", "info", "warning", "error", "critical")

_numbers = itertools.count(1)

_processors: list[Processor] = []

_encode = msgspec.json.Encoder(enc_hook=str).encode


class UnknownEvent(Exception):
    """An event that is not in the catalogue; add it there with its sentence."""


class SecretField(Exception):
    """An event with a field that holds a secret; leave the field out."""


def set_up(
    config: Config, *, node: str = "", stream: TextIO | None = None, strict: bool = False
) -> None:
    """Send every event of the configured level and above to `stream` (stdout), flushed by line.

    Each JSON line names the `node`, so that the lines of several hosts can be put together.

    `strict`, for tests, raises `UnknownEvent` for an event outside the catalogue and `SecretField`
    for a secret; otherwise the event is written, and without the secret. Calling it again replaces
    what held before; the sequence goes on.
    """
    _out.stream = stream or sys.stdout
    form = config.logs.format
    drawn = form == "console" or (form == "auto" and _out.stream.isatty())
    # Changed in place, as each logger keeps what it found at its first line: a tenth of a tick.
    _processors[:] = [
        _from(getattr(logging, config.logs.level.upper())),
        *((_refuse_unknown, _refuse_secrets) if strict else (_drop_secrets,)),
        *(_drawn() if drawn else (_line_of(node),)),
    ]
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=lambda *_: _out,
        cache_logger_on_first_use=True,
    )


def _from(lowest: int) -> Processor:
    below = {name for name in _LEVELS if getattr(logging, name.upper()) < lowest}

    def drop(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method in below:
            raise structlog.DropEvent
        return event

    return drop


def _refuse_unknown(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if event["event"] not in CATALOGUE:
        raise UnknownEvent(f"{event['event']!r} is not in the catalogue of dispatcher/logs.py")
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


def _drawn() -> list[Processor]:
    plain = structlog.dev.plain_traceback
    colors = _out.stream.isatty()
    return [
        _stamp,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
    ]


def _stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {
        "timestamp": iso(wall_clock()),
        "level": method,
        "event": event.pop("event"),
        "sequence": next(_numbers),
        **event,
    }


def _line_of(node: str) -> Processor:
    whose = {"node": node} if node else {}

    def line(logger: WrappedLogger, method: str, event: EventDict) -> str:
        fields = {**_stamp(logger, method, event), **whose}
        if "exc_info" in fields:
            fields = dict(structlog.processors.format_exc_info(logger, method, fields))
        try:
            return _encode(fields).decode()
        except (UnicodeError, TypeError):  # bytes of a foreign encoding, keys that are no text
            return json.dumps(fields, default=str, skipkeys=True)

    return line


class _Out:
    """Writes lines; a full disk or a closed pipe does not turn against their writer.

    The only one: a logger may keep it, and `set_up` still changes where its lines go.
    """

    def __init__(self) -> None:
        self.stream: TextIO = sys.stdout

    def write(self, line: str) -> None:
        try:
            self.stream.write(line + "\n")
            self.stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = write


_out = _Out()
