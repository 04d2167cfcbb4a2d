"""The loop: waits for something to happen or to be due, reads it, ticks, and sends the results."""

import os
import select
import selectors
from collections.abc import Callable, Iterator, Sequence

from dispatcher.daemon.channel import CONNECTIONS, Channel
from dispatcher.daemon.duties import Duty
from dispatcher.daemon.executor_client import ExecutorClient
from dispatcher.daemon.worker_channel import WorkerChannel
from dispatcher.executor_api import Event
from dispatcher.store.bell import NO_BELL, Bell
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.supervisor.turn import Request
from dispatcher.times import Instant, instant


class Loop:
    """Turns that read, decide and send, in this order."""

    def __init__(
        self,
        supervisor: Supervisor,
        executor: ExecutorClient,
        *,
        selector: selectors.EpollSelector,
        bell: Bell = NO_BELL,
        control: Channel | None = None,
        duties: Sequence[Duty] = (),
        connections: Callable[[], int] = lambda: CONNECTIONS,
        clock: Callable[[], Instant] = instant,
    ) -> None:
        """`selector` holds callables as data: each is called with the instant and the events.

        `bell` is what wakes this daemon for changes of the store, apart from `control`.
        `connections` returns how many connections of workers may be open.
        """
        self._supervisor = supervisor
        self._executor = executor
        self._selector = selector
        self._control = control
        self._duties = duties
        self._clock = clock
        supervisor.figures.began_at = clock()
        self._connection: int | None = None
        """The descriptor of the executor's connection, while the selector watches it."""
        executor.call_before_close(self._unwatch_executor)
        if (descriptor := bell.fileno()) is not None:
            selector.register(descriptor, selectors.EVENT_READ, lambda *_: supervisor.wake())
        self._bell = bell
        self._worker_selector = selectors.EpollSelector()
        self._workers = WorkerChannel(self._worker_selector, capacity=connections)
        self._everything = _all_of(selector, self._worker_selector)
        self._deadline = Instant(0.0)
        self._again = False
        """Whether something waits to be read, so that the next turn waits for nothing."""
        self._held: list[Event] = []
        """Events of the executor that wait until all earlier requests of workers are read."""
        self._at = clock()

    def run(self) -> None:
        """Turn until nothing is left to do."""
        while not self.is_over:
            self.step()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do here, or nothing that may be waited for."""
        return not self._held and self._supervisor.is_over(at=self._at)

    @property
    def due(self) -> Instant:
        """When the next turn begins at the latest."""
        return self._at if self._again else self._deadline

    def fileno(self) -> int:
        """Return a descriptor that is readable when a turn has something to read."""
        self._watch_executor()
        return self._everything.fileno()

    def step(self, *, longest: float = 60.0) -> None:
        """Wait at most so many seconds for something to happen or to be due, and do it."""
        self._watch_executor()
        self._wait(longest)
        self._at = at = self._clock()
        events = self._held + self._executor.receive(at=at)
        # A run's uid is its executor's, which may be another one than ours.
        for listener in self._executor.take_worker_listeners():
            uids = frozenset({self._executor.uid, os.geteuid(), 0})
            self._workers.listen_at(listener, uids=uids, at=at)
        # Looked at after the clock was read: all that came before this instant is found, also where
        # a stop in between (SIGSTOP, a freezer, suspend) made the wait return empty-handed. And
        # after the executor was read: what a worker sent before its exit has come by now.
        for key, mask in (*self._selector.select(0), *self._worker_selector.select(0)):
            if key.data is not None:
                key.data(at, mask)
        self._bell.read()  # only here: a tick follows each ring that was read
        behind = self._workers.check_backlog()
        requests = self._take_requests(at, at_once=bool(events) or at >= self._deadline)
        grouping = self._requests_due() is not None
        # A worker's request counts before its exit, so exits wait until all requests are read.
        self._held, events = (events, []) if behind else ([], events)
        caught_up = not (behind or grouping or self._workers.is_short)
        deadlines = [self._supervisor.tick(events, requests, caught_up=caught_up, at=at)]
        self._again = behind and not grouping
        self._supervisor.figures.ticks.observe(self._clock() - at)
        self._executor.flush(at=at)
        # After what may find the connection broken: it is to be made anew at once.
        deadlines.append(self._executor.run_due(at=at))
        deadlines += self._serve_channels(at)
        deadlines += [duty(at) for duty in self._duties]
        self._deadline = min(deadlines)

    def flush(self, *, within: float) -> None:
        """Send the executor what waits for it, in so many seconds at most."""
        give_up_at = self._clock() + within
        self._executor.flush(at=self._clock())
        while self._executor.wants_to_write and (left := give_up_at - self._clock()) > 0:
            room = select.poll()
            if self._executor.connection is not None:
                room.register(self._executor.connection, select.POLLOUT)
            room.poll(left * 1000)
            self._executor.flush(at=self._clock())

    def close(self) -> None:
        """Close every socket. Workers and executor go on."""
        self._workers.close()
        self._everything.close()
        self._worker_selector.close()
        if self._control is not None:
            self._control.close()
        self._executor.close()

    def _wait(self, longest: float) -> None:
        """Wait for something to happen or to be due.

        What workers send in the pause after a take wakes nobody: it is not taken before, and each
        wake-up costs a tick.
        """
        now = self._clock()
        until = min(now + longest, self.due)
        pause_end = self._workers.requests.pause_end(shortest=self._supervisor.shortest_lease)
        if now < pause_end:
            if self._selector.select(max(0.0, min(until, pause_end) - now)) or until <= pause_end:
                return
            now = self._clock()
        self._everything.select(max(0.0, until - now))

    def _serve_channels(self, at: Instant) -> Iterator[Instant]:
        """Serve who waits at the sockets; yield when to look again."""
        for channel in (self._workers, self._control):
            due = channel.run_due(at=at) if channel is not None else None
            if due is not None and due <= at:
                self._again = True  # no deadline: what is read now may share a commit
            elif due is not None:
                yield due
        if (due := self._requests_due()) is not None:
            yield due

    def _take_requests(self, at: Instant, *, at_once: bool) -> Sequence[Request]:
        """Return the workers' requests, if due or `at_once`: before what the executor reports."""
        due = self._requests_due()
        if due is None or (at < due and not at_once):
            return ()
        return self._workers.requests.take(at=at)

    def _requests_due(self) -> Instant | None:
        return self._workers.requests.due(shortest=self._supervisor.shortest_lease)

    def _watch_executor(self) -> None:
        """Wait on the present connection, and for room in it while something waits to be sent."""
        if (connection := self._executor.connection) is None:
            return
        events = selectors.EVENT_READ
        events |= selectors.EVENT_WRITE if self._executor.wants_to_write else 0
        if self._connection is None:
            self._selector.register(connection, events)
            self._connection = connection.fileno()
        elif self._selector.get_key(connection).events != events:
            self._selector.modify(connection, events)

    def _unwatch_executor(self) -> None:
        """Forget a connection before it is closed: the next socket may get its number."""
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection = None


def _all_of(*parts: selectors.EpollSelector) -> selectors.EpollSelector:
    """Return a selector that has something when one of these has."""
    everything = selectors.EpollSelector()
    for part in parts:
        everything.register(part, selectors.EVENT_READ)
    return everything
