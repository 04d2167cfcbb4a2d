"""Intents of operators: cancel, hold, release and retry, and what becomes of the task."""

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from dispatcher import commits
from dispatcher.config.config import Config
from dispatcher.execution import Rows
from dispatcher.model import INTENDED, Intent, TaskFilter, TaskState
from dispatcher.operations.batches import in_batches
from dispatcher.operations.local_claims import settle_all_abandoned
from dispatcher.outlook import IntentResult, Outlook, is_run_missing, outlook
from dispatcher.store.api import Store
from dispatcher.times import StoreTime

_Do = Callable[[StoreTime], list[IntentResult]]


def request(store: Store, task_id: int, word: Intent | str, why: str | None) -> IntentResult:
    """Write an intent, and return its result: see `Client.request`."""
    do = _Intended(store, _parsed(word), why).write([task_id])
    (result,) = commits.change(store, do, remedy=f"see `dispatcher show {task_id}`")
    return result


def written(store: Store, task_id: int, intent: Intent, now: StoreTime) -> IntentResult:
    """Write an intent in an open transaction, and return its result."""
    (result,) = _Intended(store, intent, None).write([task_id])(now)
    return result


def request_each(
    store: Store,
    config: Config,
    task_ids: Sequence[int],
    word: Intent | str,
    why: str | None = None,
    *,
    wanted: TaskFilter | None = None,
) -> Iterator[list[IntentResult]]:
    """Write an intent for each task, as `in_batches`; yield what becomes of them.

    Tasks that do not match `wanted` any more are left alone, and left out of the answers.
    """
    intended = _Intended(store, _parsed(word), why, wanted)
    return in_batches(store, config, task_ids, intended.write)


class _Intended(Struct, frozen=True):
    """An intent and its reason, to be written for tasks that match a filter."""

    store: Store
    intent: Intent
    reason: str | None
    wanted: TaskFilter | None = None

    def write(self, task_ids: Sequence[int]) -> _Do:
        """Return what writes it in a transaction; called again, that returns the first answers."""

        def do(now: StoreTime) -> list[IntentResult]:
            if self.intent is Intent.RETRY:
                self.store.lock_for_retry(task_ids)
            else:
                self.store.lock_rows(Rows(tasks=task_ids))
            self.store.watch_clock()
            settle_all_abandoned(self.store, now)
            meant = self._meant(task_ids)
            was = {task_id: self._write(task_id, now) for task_id in meant}
            settle_all_abandoned(self.store, now)
            return [self._result(task_id, before, now) for task_id, before in was.items()]

        return commits.first_answer(do)

    def _meant(self, task_ids: Sequence[int]) -> Sequence[int]:
        if self.wanted is None:
            return task_ids
        return [one.id for one in self.store.matching_among(task_ids, self.wanted)]

    def _write(self, task_id: int, now: StoreTime) -> TaskState | None:
        """Write it for one task; return the state before."""
        reason = self.reason or f"{INTENDED[self.intent]} by an operator"
        match self.intent:
            case Intent.CANCEL:
                return self.store.cancel(task_id, reason, now=now)
            case Intent.HOLD:
                is_given = self.reason is not None
                return self.store.hold(task_id, reason, replace_reason=is_given, now=now)
            case Intent.RELEASE:
                return self.store.release(task_id, now=now)
            case Intent.RETRY:
                return self.store.retry(task_id, now=now)

    def _result(self, task_id: int, was: TaskState | None, now: StoreTime) -> IntentResult:
        is_running = was is TaskState.RUNNING
        ahead = outlook_of(self.store, task_id, now) if is_running else None
        task = self.store.task(task_id, payload=False)
        is_missing = is_running and is_run_missing(task, self.store.runs(task_id))
        return IntentResult(self.intent, task_id, was, task, ahead, is_missing)


def outlook_of(store: Store, task_id: int, now: StoreTime) -> Outlook | None:
    """Return the outcome of a run that is ending, and its task's next state; None: none is."""
    runs = store.runs(task_id)
    run = store.open_run(runs[-1].uid) if runs else None
    if run is None or not run.is_ending:
        return None
    from random import SystemRandom  # noqa: PLC0415 - hardly ever needed, and slow to import

    return outlook(run, now=now, rng=SystemRandom())


def _parsed(word: Intent | str) -> Intent:
    try:
        return Intent(word)
    except ValueError:
        raise ValueError(f"intent: must be one of {', '.join(Intent)}, not {word!r}") from None
