"""Accepts a few tasks in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from dispatcher import commits
from dispatcher.model import NewTask, Submitted
from dispatcher.store.api import SubmitterStore
from dispatcher.times import StoreTime


def accept(store: SubmitterStore, tasks: Sequence[NewTask]) -> list[Submitted]:
    """Accept checked tasks, all or none."""

    def submit(now: StoreTime) -> list[Submitted]:
        store.watch_clock()
        return [store.submit(task, now=now) for task in tasks]

    is_keyed = bool(tasks) and all(task.key is not None for task in tasks)
    remedy = "see `dispatcher list` first; a --key makes it safe"
    if is_keyed:
        remedy = "submit it again, with the same key"
    return commits.change(store, submit, remedy=remedy, harmless_twice=is_keyed)
