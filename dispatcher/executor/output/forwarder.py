"""Forwarding output to systemd's journal, for profiles with `output = "journal"`.

A run's file stays what every run's is: the lock, the tail, what the budget and the stall time-out
go by. It is also the queue from which lines are read behind their writers: nobody waits for
journald. How far a file was forwarded stands in the executor's journal, where a successor goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from dispatcher import wire
from dispatcher.executor.journal import Journal, Line
from dispatcher.executor.log import Log
from dispatcher.executor.output.budgets import LONGEST_PAUSE, SHORTEST_PAUSE, UNTOLD_PAUSE, together
from dispatcher.executor.output.pieces import pieces
from dispatcher.executor.output.stream import Stream, head
from dispatcher.executor.run import TrackedRun
from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.write_watch import Growth
from dispatcher.host import output_files
from dispatcher.logs.journald import ABSENT_PAUSE, Connection
from dispatcher.logs.writer import RETRY
from dispatcher.times import NEVER, Instant

#: Bytes read of all files in one look: some 2 ms of the executor's loop.
MOST_AT_ONCE = 1 << 20

#: Records that may be sent at once, and a second from then on; of more lines, as many as fit share
#: one. journald takes 10,000 in 30 s of a unit by default, the log's too, and drops the rest.
MOST_RECORDS = 1000
RECORD_RATE = 280.0

#: Seconds that journald may take nothing of a run that is gone; then the rest is given up.
PATIENCE = 60.0

#: Runs that are gone and still to be forwarded; of more, the oldest is given up.
MOST_ENDED = 256

#: Looks at runs that are gone before an executor leaves, with a moment for journald after each.
LAST_LOOKS = 20

#: Seconds after which it is reported that journald has no room.
LONG = 10.0

#: Seconds between two reports that a run's output was not forwarded.
REPORT_PAUSE = 10.0

_BEFORE = Instant(0.0)


class Forwarder:
    """Reads the files of runs whose output is for the journal, each as it grows."""

    def __init__(
        self,
        kernel: Kernel,
        journal: Journal,
        log: Log,
        *,
        node: str,
        journald: Connection | None = None,
    ) -> None:
        """`heed` is called when the kernel's wait has found something."""
        self._kernel = kernel
        self._journal = journal
        self._log = log
        self._node = node
        self._journald = journald or Connection()
        self._growth: Growth | None = None
        self._streams: dict[wire.RunUid, Stream] = {}
        self._asked: dict[int, list[Stream]] = {}
        self._allowed, self._counted_at = float(MOST_RECORDS), _BEFORE
        self._retry_at = _BEFORE
        self._held_since: Instant | None = None
        self._held_told = False
        self.due = NEVER
        """When to `keep` on."""

    def follow(self, run: TrackedRun, descriptor: int | None, at: Instant) -> None:
        """Forward a run's output from now on; without a descriptor, by its path: it is inherited.

        What cannot be followed is reported, and its file has it.
        """
        path = run.output_path if descriptor is None else f"/proc/self/fd/{descriptor}"
        try:
            if descriptor is None:
                own = output_files.opened(path)
            else:
                own = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # it was removed, or given to a later run: nothing was left
            return
        except OSError as error:
            self._log("output.unforwarded", **run.ids, bytes=0, reason=f"cannot open it: {error}")
            return
        offset = run.forwarded or 0
        self._streams[run.uid] = Stream(run, own, head(run, self._node), offset, look_at=at)
        self.due = min(self.due, at)

    def heed(self, ready: Iterable[int], at: Instant) -> None:
        """Take note of quiet files that were written to."""
        if self._growth is not None and self._growth.descriptor in ready:
            for number in self._growth.answers():
                for stream in self._asked.pop(number, ()):
                    stream.asked = None
                    stream.look_at = self.due = at

    def end(self, uid: wire.RunUid, at: Instant) -> None:
        """Take note that a run is gone: what is left of its output is forwarded soon."""
        if stream := self._streams.get(uid):
            stream.ended = True
            stream.look_at = self.due = at
            stream.give_up_at = Instant(at + PATIENCE)
            ended = [stream for stream in self._streams.values() if stream.ended]
            for stream in ended[:-MOST_ENDED]:
                stream.give_up_at = at

    def is_behind(self, uid: wire.RunUid) -> bool:
        """Tell whether a run's output is still to be forwarded, as far as it can be."""
        return uid in self._streams

    def keep(self, at: Instant) -> list[wire.RunUid]:
        """Forward some of what is due; return the runs that are gone and done with."""
        done, room = [], MOST_AT_ONCE
        due = [stream for stream in self._streams.values() if stream.look_at <= at]
        for stream in sorted(due, key=lambda stream: stream.look_at):
            if room > 0 and at >= self._retry_at:
                room -= self._forward(stream, at)
            if self._is_done(stream, at):
                done.append(stream.run.uid)
        first = min((stream.look_at for stream in self._streams.values()), default=NEVER)
        self.due = max(first, self._retry_at, Instant(at + SHORTEST_PAUSE if first <= at else 0.0))
        return done

    def finish(self, at: Instant) -> Iterator[wire.RunUid]:
        """Forward what runs that are gone have left, for a second at most; yield as `keep` returns.

        A successor goes on with the rest.
        """
        self._allowed = float(MOST_RECORDS)
        for _ in range(LAST_LOOKS):
            ended = [stream for stream in self._streams.values() if stream.ended]
            if not ended:
                break
            self._retry_at = _BEFORE
            for stream in ended:
                stream.look_at = at
            yield from self.keep(at)
            self._journald.wait(ABSENT_PAUSE)

    def close(self) -> None:
        """Give the descriptors back."""
        for stream in self._streams.values():
            os.close(stream.descriptor)
        self._streams.clear()
        self._journald.close()
        if self._growth is not None:
            self._growth.close()

    def _forward(self, stream: Stream, at: Instant) -> int:
        """Send what comes next of a file; return how many bytes were read."""
        size, offset = stream.size, stream.offset
        data = stream.read()
        start = stream.offset
        ends = start + len(data) >= stream.size
        held = not self._send(stream, data, start, last=stream.ended and ends, at=at)
        if stream.offset != offset:
            stream.run.forwarded = stream.offset
            uid, run = stream.run.uid, stream.run
            self._journal.note(Line(event="known", uid=uid, at=at, forwarded=run.forwarded))
            if stream.ended:
                stream.give_up_at = Instant(at + PATIENCE)
        stream.done = stream.ended and not held and stream.offset >= stream.size
        if held:
            stream.look_at = self._retry_at
        elif stream.ended or not ends:
            stream.look_at = Instant(at + SHORTEST_PAUSE)
        elif stream.size != size:
            stream.look_at = together(at, LONGEST_PAUSE)
        else:
            stream.look_at = self._ask(stream, at)
        return len(data)

    def _send(self, stream: Stream, data: bytes, start: int, *, last: bool, at: Instant) -> bool:
        """Send the pieces of data that begins at an offset; False when the rest has to wait."""
        gained = RECORD_RATE * (at - self._counted_at)
        self._allowed, self._counted_at = min(MOST_RECORDS, self._allowed + gained), at
        single = data.count(b"\n") <= self._allowed
        for piece in pieces(data, last=last, single=single):
            if self._allowed < 1:
                self._retry_at = Instant(at + SHORTEST_PAUSE)
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
            self._held_since, self._held_told = None, False
        return True

    def _hold_back(self, at: Instant) -> None:
        """Try again later, and report once that it waits."""
        absent = self._journald.absent
        self._retry_at = Instant(at + (SHORTEST_PAUSE if absent is None else RETRY))
        if self._held_since is None:
            self._held_since = at
        if not self._held_told and (absent is not None or at - self._held_since >= LONG):
            self._held_told = True
            self._log("output.held_back", reason=absent or f"no room for {LONG:g} s")

    def _is_done(self, stream: Stream, at: Instant) -> bool:
        """Report what was lost; drop a stream of which no more is to come."""
        if not stream.done and at >= stream.give_up_at:
            stream.lose(
                max(stream.measured(), stream.offset), f"journald took nothing for {PATIENCE:g} s"
            )
            stream.done = True
        if stream.lost and (stream.done or at >= stream.report_at):
            ids, why = stream.run.ids, stream.why_lost
            self._log("output.unforwarded", **ids, bytes=stream.lost, reason=why)
            stream.lost, stream.report_at = 0, Instant(at + REPORT_PAUSE)
        if stream.done:
            del self._streams[stream.run.uid]
            self._withdraw(stream)
            os.close(stream.descriptor)
        return stream.done

    def _ask(self, stream: Stream, at: Instant) -> Instant:
        """Ask to be told of a quiet file's next write; return when to look without it."""
        if self._growth is None:
            self._growth = Growth()
            if self._growth.descriptor >= 0:
                self._kernel.watch(self._growth.descriptor)
        stream.asked = self._growth.ask(f"/proc/self/fd/{stream.descriptor}")
        if stream.asked is None:
            return together(at, UNTOLD_PAUSE)
        asking = self._asked.setdefault(stream.asked, [])
        if stream not in asking:
            asking.append(stream)
        # What was written since the look, and before the question, is told by nobody.
        return at if stream.measured() != stream.size else NEVER

    def _withdraw(self, stream: Stream) -> None:
        if stream.asked is not None and self._growth is not None:
            self._asked[stream.asked].remove(stream)
            if not self._asked[stream.asked]:
                del self._asked[stream.asked]
                self._growth.withdraw(stream.asked)
