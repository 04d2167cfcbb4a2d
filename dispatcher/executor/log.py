"""The executor's log: the same lines and catalogue as the daemon's."""

import itertools
import os
from collections.abc import Callable, Mapping

import msgspec

from dispatcher import times
from dispatcher.host import utf8
from dispatcher.logs import journald, records
from dispatcher.logs.catalogue import EXECUTOR, Event
from dispatcher.logs.repeats import Repeats
from dispatcher.logs.writer import NonBlockingWriter, sink_for
from dispatcher.times import Instant

#: What the journal calls this process.
PROGRAM = "dispatcher-executor"


class Log:
    """Writes one line per event to a descriptor, or sends it to systemd's journal as a record.

    A full disk, or a reader that has stopped, costs lines; it never holds up the caller.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        form: str = "auto",
        node: str = "",
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], Instant] = times.instant,
    ) -> None:
        """`form` is "auto", "json" or "journal", as in `[logs] format`.

        With records, errors are also written as lines where the descriptor does not lead to the
        journal: the process that started this one reads the last of them.
        """
        journal, why_not = journald.connected(form, descriptor, environ)
        prefixed = form == "auto" and journald.leads_to(descriptor, environ)
        report, self._clock = self._report_dropped, clock
        self._lines = NonBlockingWriter(sink_for(descriptor), report=report, clock=clock)
        self._records: NonBlockingWriter | None = None
        if journal is not None:
            self._records = NonBlockingWriter(journal.sink, report=report, clock=clock)
        self._identifier = journald.identifier(PROGRAM, environ)
        self._errors_too = not journald.leads_to(descriptor, environ)
        self._node_fields = {"node": node} if node else {}
        self._prefixes = journald.PREFIX if prefixed else {}
        self._numbers = itertools.count(1)
        self._repeats = Repeats()
        if why_not is not None:
            self("log.unjournaled", reason=why_not)

    def __call__(self, event: str, **facts: object) -> None:
        """Write `event`, one of the catalogue, with its facts, unless it repeats too often."""
        known = EXECUTOR.get(event, _UNKNOWN)
        if known.same_by is not None:
            left_out = self._repeats.admit(event, known.same_by, facts, self._clock())
            if left_out is None:
                return
            if left_out:
                facts["left_out"] = left_out
        line = {
            "timestamp": times.iso(times.wall_clock()),
            "level": known.level,
            "event": event,
            "sequence": next(self._numbers),
            **{name: utf8.as_utf8(f) if isinstance(f, str) else f for name, f in facts.items()},
            **self._node_fields,
        }
        if self._records is not None:
            self._records.write(records.record(line, identifier=self._identifier))
        if self._records is None or (self._errors_too and known.level == "error"):
            prefix = self._prefixes.get(known.level, "").encode()
            self._lines.write(prefix + msgspec.json.encode(line) + b"\n")

    @property
    def due(self) -> Instant:
        """When to `catch_up`."""
        return min(self._repeats.due, *(writer.due for writer in self._writers))

    def catch_up(self, at: Instant) -> None:
        """Write what the reader had no room for, and report the repetitions that have ended."""
        for writer in self._writers:
            writer.retry()
        if at >= self._repeats.due:
            for facts in self._repeats.ended(at):
                self("error.ceased", **facts)

    def report_repetitions(self) -> None:
        """Report the repetitions that were left out and not reported yet: the process ends."""
        for facts in self._repeats.unreported():
            self("error.ceased", **facts)

    def close(self, *, within: float) -> None:
        """Wait at most so many seconds for the reader to take the rest."""
        for writer in self._writers:
            writer.close(within=within)

    @property
    def _writers(self) -> tuple[NonBlockingWriter, ...]:
        return (self._lines,) if self._records is None else (self._records, self._lines)

    def _report_dropped(self, lines: int) -> None:
        self("log.dropped", lines=lines)


#: A line is better than a crash; tests find it.
_UNKNOWN = Event("An event outside the catalogue.", "error")
