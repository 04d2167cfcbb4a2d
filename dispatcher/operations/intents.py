"""Intents of operators: cancel, hold, release and retry, and what becomes of the task."""

from __future__ import annotations

from dispatcher import commits, control
from dispatcher.config.config import Config
from dispatcher.model import INTENDED, Intent, TaskState
from dispatcher.operations.local_claims import settle_all_abandoned
from dispatcher.outlook import Asked, Outlook, outlook
from dispatcher.store.api import Store
from dispatcher.times import StoreTime


def ask(store: Store, config: Config, task_id: int, word: Intent | str, why: str | None) -> Asked:
    """Write an intent, and return what becomes of the task: see `Client.ask`."""
    intent = _parsed(word)
    reason = why or f"{INTENDED[intent]} by an operator"

    def do(now: StoreTime) -> Asked:
        store.watch_clock()
        settle_all_abandoned(store, config, now)
        match intent:
            case Intent.CANCEL:
                was = store.cancel(task_id, reason, now=now)
            case Intent.HOLD:
                was = store.hold(task_id, reason, now=now)
            case Intent.RELEASE:
                was = store.release(task_id, policy=config.retry.policy(), now=now)
            case Intent.RETRY:
                was = store.retry(task_id, now=now)
        settle_all_abandoned(store, config, now)
        is_running = was is TaskState.RUNNING
        ahead = outlook_of(store, config, task_id, now) if is_running else None
        return Asked(intent, task_id, was, store.task(task_id), ahead)

    remedy = f"see `dispatcher show {task_id}`"
    asked = commits.change(store, commits.first_answer(do), remedy=remedy)
    control.wake(config)
    return asked


def outlook_of(store: Store, config: Config, task_id: int, now: StoreTime) -> Outlook | None:
    """Return the outcome of a run that is ending, and its task's next state; None: none is."""
    runs = store.runs(task_id)
    run = store.open_run(runs[-1].uid) if runs else None
    if run is None or not run.is_ending:
        return None
    from random import SystemRandom  # noqa: PLC0415 - hardly ever needed, and slow to import

    return outlook(run, config.retry.policy(), now=now, rng=SystemRandom())


def _parsed(word: Intent | str) -> Intent:
    try:
        return Intent(word)
    except ValueError:
        raise ValueError(f"intent: must be one of {', '.join(Intent)}, not {word!r}") from None
