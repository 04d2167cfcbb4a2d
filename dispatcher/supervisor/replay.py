"""A tick that the store refused, in transactions of its own: what is refused alone is left out."""

from collections.abc import Sequence
from functools import partial

import structlog

from dispatcher import wire
from dispatcher.errors import StoreRefused
from dispatcher.execution import NO_ROWS, Rows
from dispatcher.executor_api import Connected, Disconnected, Event
from dispatcher.model import Outcome
from dispatcher.store.api import Store
from dispatcher.supervisor.locking import Locking
from dispatcher.supervisor.reconcile import exited
from dispatcher.supervisor.recorder import Recorder
from dispatcher.supervisor.transactor import Operation, Transactor
from dispatcher.supervisor.turn import Request
from dispatcher.supervisor.worker_recorder import WorkerRecorder
from dispatcher.times import Instant

log = structlog.get_logger()


class Replay:
    """Repeats the operations of a tick one by one."""

    def __init__(
        self,
        store: Store,
        transactor: Transactor,
        locking: Locking,
        recorder: Recorder,
        workers: WorkerRecorder,
    ) -> None:
        self._store, self._transactor, self._lock = store, transactor, locking.lock
        self._recorder, self._workers = recorder, workers

    def run(
        self,
        unanswered: list[Request],
        inbox: list[Event],
        duties: Sequence[Operation],
        at: Instant,
    ) -> None:
        """Run each operation alone; a request or event leaves its list once it is done.

        An event whose rows others have locked stays, and with a greeting all that follows.
        """
        while unanswered:
            self._answer_alone(unanswered[0], at)
            unanswered.pop(0)
        place = 0
        while place < len(inbox):
            event = inbox[place]
            if self._is_recorded(event, at):
                inbox.pop(place)
            elif isinstance(event, Connected):
                break
            else:
                place += 1
        for duty in duties:
            try:
                self._transactor.run([self._lock, duty], at)
            except StoreRefused as error:
                log.exception("store.refused", operation=duty.__name__, error=str(error))

    def _answer_alone(self, request: Request, at: Instant) -> None:
        locked = partial(self._lock, requests=[request])
        try:
            self._transactor.run([locked, partial(self._workers.record, requests=[request])], at)
        except StoreRefused as error:
            log.exception("store.refused", operation="request", error=str(error))
            self._workers.refuse(request, error)

    def _is_recorded(self, event: Event, at: Instant) -> bool:
        """Record one event, unless it waits for rows that others have locked."""
        if isinstance(event, Connected):
            for report in event.runs:
                if report.state is wire.RunState.GONE:
                    self._record_alone(exited(report, at=at), at)
        return self._record_alone(event, at)

    def _record_alone(self, event: Event, at: Instant) -> bool:
        """Record one event; if the store refuses it, hold its task for an internal error.

        Returns False if it waits for rows that others have locked.
        """
        locked = partial(self._lock, events=[event])
        record = partial(self._recorder.record, event=event)
        try:
            kept = (self._recorder.record_ends, self._recorder.record_starts)
            return not self._transactor.run([locked, record, *kept], at).kept
        except StoreRefused as error:
            log.exception("store.refused", operation=type(event).__name__, error=str(error))
            self._hold_for_internal_error(event, f"internal error: {error}", at)
            return True

    def _hold_for_internal_error(self, event: Event, reason: str, at: Instant) -> None:
        if isinstance(event, Connected | Disconnected | wire.Stray | wire.Door):
            return
        with self._store.transaction() as now:
            self._store.lock_rows(NO_ROWS, Rows(runs=[event.uid]))
            self._store.begin_ending(event.uid, Outcome.HELD, reason, now=now)
        bare = wire.Exited(uid=event.uid, exit=wire.Exit(at=at))
        if isinstance(event, wire.Exited | wire.StartFailed) and event != bare:
            self._record_alone(bare, at)
