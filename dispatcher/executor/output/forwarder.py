"""Forwarding output to systemd's journal, for profiles with `output = "journal"`.

A run's file stays what it is for every run: the lock, the tail, the measure of budget and stall
time-out. It is also the queue from which lines are read behind their writers, so that nobody waits
for journald. The executor's journal records how far a file was forwarded, for a successor.
"""

import os
from collections.abc import Container, Iterator

from dispatcher import wire
from dispatcher.executor.journal import Journal
from dispatcher.executor.log import Log
from dispatcher.executor.output.budgets import (
    LONGEST_INTERVAL,
    SHORTEST_INTERVAL,
    UNWATCHED_INTERVAL,
    next_round,
)
from dispatcher.executor.output.quiet_files import QuietFiles
from dispatcher.executor.output.stream import Stream, head, pieces
from dispatcher.executor.records import Forwarded
from dispatcher.executor.run import TrackedRun
from dispatcher.host import output_files
from dispatcher.logs.journald import ABSENT_DELAY, Connection
from dispatcher.logs.writer import RETRY
from dispatcher.times import LONG_AGO, NEVER, Instant

#: Bytes read of all files in one look: some 2 ms of the executor's loop.
MOST_AT_ONCE = 1 << 20

#: Records that may be sent at once, and a second from then on; of more lines, as many as fit share
#: one. journald takes 10,000 in 30 s of a unit by default, the log's too, and drops the rest.
MOST_RECORDS = 1000
RECORD_RATE = 280.0

#: Seconds for which journald may take nothing of a run that is gone before the rest is given up.
PATIENCE = 60.0

#: Runs that are gone and still to be forwarded; of more, the oldest is given up.
MOST_ENDED = 256

#: Looks at runs that are gone before an executor exits, with a moment for journald after each.
LAST_LOOKS = 20

#: Seconds after which it is reported that journald has no room.
LONG = 10.0

#: Seconds between two reports that a run's output was not forwarded.
REPORT_INTERVAL = 10.0


class Forwarder:
    """Reads the files of runs whose output is for the journal, each as it grows."""

    def __init__(
        self,
        journal: Journal,
        log: Log,
        quiet: QuietFiles[Stream],
        *,
        node: str,
        journald: Connection | None = None,
    ) -> None:
        self._journal = journal
        self._log = log
        self._node = node
        self._journald = journald or Connection()
        self._quiet = quiet
        self._streams: dict[wire.RunUid, Stream] = {}
        self._allowed, self._counted_at = float(MOST_RECORDS), LONG_AGO
        self._retry_at = LONG_AGO
        self._held_since: Instant | None = None
        self._held_reported = False
        self.due = NEVER
        """When to `forward`."""

    def follow(self, run: TrackedRun, descriptor: int | None, at: Instant) -> None:
        """Forward a run's output from now on, by its path if it is inherited.

        Output that cannot be opened is reported, and stays in its file.
        """
        path = run.output_path if descriptor is None else f"/proc/self/fd/{descriptor}"
        try:
            if descriptor is None:
                own = output_files.opened(path)
            else:
                own = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # removed, or reused by a later run: nothing was left
            return
        except OSError as error:
            self._log("output.unforwarded", **run.ids, bytes=0, reason=f"cannot open it: {error}")
            return
        offset = run.forwarded or 0
        self._streams[run.uid] = Stream(run, own, head(run, self._node), offset, look_at=at)
        self.due = min(self.due, at)

    def record_writes(self, ready: Container[int], at: Instant) -> None:
        """Look soon at quiet files that were written to."""
        for stream in self._quiet.written(ready):
            stream.look_at = self.due = at

    def end(self, uid: wire.RunUid, at: Instant) -> None:
        """Forward soon what is left of the output of a run that is gone."""
        if stream := self._streams.get(uid):
            stream.ended = True
            stream.look_at = self.due = at
            stream.give_up_at = Instant(at + PATIENCE)
            ended = [stream for stream in self._streams.values() if stream.ended]
            for stream in ended[:-MOST_ENDED]:
                stream.give_up_at = at

    def is_behind(self, uid: wire.RunUid) -> bool:
        """Whether some of a run's output is still to be forwarded."""
        return uid in self._streams

    def forward(self, at: Instant) -> list[wire.RunUid]:
        """Forward some of what is due; return the runs that are gone and wholly forwarded."""
        done, room = [], MOST_AT_ONCE
        due = [stream for stream in self._streams.values() if stream.look_at <= at]
        for stream in sorted(due, key=lambda stream: stream.look_at):
            if room > 0 and at >= self._retry_at:
                room -= self._forward(stream, at)
            if self._is_done(stream, at):
                done.append(stream.run.uid)
        first = min((stream.look_at for stream in self._streams.values()), default=NEVER)
        self.due = max(
            first, self._retry_at, Instant(at + SHORTEST_INTERVAL if first <= at else 0.0)
        )
        return done

    def finish(self, at: Instant) -> Iterator[wire.RunUid]:
        """Forward the rest of runs that are gone, for a second at most; yield those done.

        A successor goes on from there.
        """
        self._allowed = float(MOST_RECORDS)
        for _ in range(LAST_LOOKS):
            ended = [stream for stream in self._streams.values() if stream.ended]
            if not ended:
                break
            self._retry_at = LONG_AGO
            for stream in ended:
                stream.look_at = at
            yield from self.forward(at)
            self._journald.wait(ABSENT_DELAY)

    def close(self) -> None:
        for stream in self._streams.values():
            os.close(stream.descriptor)
        self._streams.clear()
        self._journald.close()
        self._quiet.close()

    def _forward(self, stream: Stream, at: Instant) -> int:
        """Send the next part of a file; return how many bytes were read."""
        size, offset = stream.size, stream.offset
        data = stream.read()
        start = stream.offset
        ends = start + len(data) >= stream.size
        held = not self._send(stream, data, start, last=stream.ended and ends, at=at)
        if stream.offset != offset:
            stream.run.forwarded = stream.offset
            self._journal.append(Forwarded(uid=stream.run.uid, at=at, forwarded=stream.offset))
            if stream.ended:
                stream.give_up_at = Instant(at + PATIENCE)
        stream.done = stream.ended and not held and stream.offset >= stream.size
        if held:
            stream.look_at = self._retry_at
        elif stream.ended or not ends:
            stream.look_at = Instant(at + SHORTEST_INTERVAL)
        elif stream.size != size:
            stream.look_at = next_round(at, LONGEST_INTERVAL)
        else:
            stream.look_at = self._watch_quiet(stream, at)
        return len(data)

    def _send(self, stream: Stream, data: bytes, start: int, *, last: bool, at: Instant) -> bool:
        """Send data that begins at an offset in pieces; False when the rest has to wait."""
        gained = RECORD_RATE * (at - self._counted_at)
        self._allowed, self._counted_at = min(MOST_RECORDS, self._allowed + gained), at
        single = data.count(b"\n") <= self._allowed
        for piece in pieces(data, last=last, single=single):
            if self._allowed < 1:
                self._retry_at = Instant(at + SHORTEST_INTERVAL)
                return False
            try:
                self._journald.send(stream.record(piece))
            except BlockingIOError:
                self._hold_back(at)
                return False
            except OSError as error:
                stream.lose(start + piece.end, f"it cannot be sent: {error.strerror}")
            stream.offset = start + piece.end
            self._allowed -= 1
            self._held_since, self._held_reported = None, False
        return True

    def _hold_back(self, at: Instant) -> None:
        """Retry later, and report once that output waits."""
        absent = self._journald.absent
        self._retry_at = Instant(at + (SHORTEST_INTERVAL if absent is None else RETRY))
        if self._held_since is None:
            self._held_since = at
        if not self._held_reported and (absent is not None or at - self._held_since >= LONG):
            self._held_reported = True
            self._log("output.held_back", reason=absent or f"no room for {LONG:g} s")

    def _is_done(self, stream: Stream, at: Instant) -> bool:
        """Report what was lost; drop the stream if it is done."""
        if not stream.done and at >= stream.give_up_at:
            stream.lose(
                max(stream.measured(), stream.offset), f"journald took nothing for {PATIENCE:g} s"
            )
            stream.done = True
        if stream.lost and (stream.done or at >= stream.report_at):
            ids, why = stream.run.ids, stream.why_lost
            self._log("output.unforwarded", **ids, bytes=stream.lost, reason=why)
            stream.lost, stream.report_at = 0, Instant(at + REPORT_INTERVAL)
        if stream.done:
            del self._streams[stream.run.uid]
            self._quiet.drop(stream)
            os.close(stream.descriptor)
        return stream.done

    def _watch_quiet(self, stream: Stream, at: Instant) -> Instant:
        """Watch a quiet file for its next write; return when to look without one."""
        if not self._quiet.watch(stream, f"/proc/self/fd/{stream.descriptor}"):
            return next_round(at, UNWATCHED_INTERVAL)
        # No watch reports what was written after the look and before the watch.
        return at if stream.measured() != stream.size else NEVER
