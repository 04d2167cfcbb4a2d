"""Changes of the store for people and programs: also when nobody knows whether one was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dispatcher.errors import CommitUnknown, StoreRefused, StoreUnavailable, StoreUnusable
from dispatcher.signals import unstopped
from dispatcher.store.api import Store
from dispatcher.times import StoreTime

T = TypeVar("T")


def change(
    store: Store, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool = True
) -> T:
    """Do something in a transaction, and return what it returned.

    Where the commit got no clear answer it is done once more, if that does no harm. Raises
    `CommitUnknown` with the `remedy` where that is not possible either, whatever kept it from being
    so: no failure of a second time proves anything of the first. Any other error means that nothing
    was written.
    """
    try:
        return _transact(store, do)
    except CommitUnknown as error:
        doubt, told = error, f"{error}; so it was done, or it was not: {remedy}"
    if harmless_twice:
        try:
            return _transact(store, do)
        except (StoreUnusable, StoreRefused) as error:
            told += f"; asked again: {error}"
        except (CommitUnknown, StoreUnavailable):
            pass
    raise CommitUnknown(told) from doubt


def first_answer(do: Callable[[StoreTime], T]) -> Callable[[StoreTime], T]:
    """Return what does the same and always answers as the first time: how things stood before."""
    answers: list[T] = []

    def remembering(now: StoreTime) -> T:
        answers.append(do(now))
        return answers[0]

    return remembering


def _transact(store: Store, do: Callable[[StoreTime], T]) -> T:
    with unstopped(), store.transaction() as now:
        return do(now)
