"""Changes of the store for people and programs: also when nobody knows whether one was made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from dispatcher.errors import CommitUnknown, StoreUnavailable
from dispatcher.store.api import Store
from dispatcher.times import StoreTime

T = TypeVar("T")


def change(
    store: Store, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool = True
) -> T:
    """Do something in a transaction, and return what it returned.

    Where the commit got no clear answer it is done once more, if that does no harm. Raises
    `CommitUnknown` with the `remedy` where that is not possible either; any other error means that
    nothing was written.
    """
    try:
        return _transact(store, do)
    except CommitUnknown as error:
        if harmless_twice:
            with suppress(CommitUnknown, StoreUnavailable):
                return _transact(store, do)
        told = f"{error}; so it was done, or it was not: {remedy}"
        raise CommitUnknown(told) from error


def first_answer(do: Callable[[StoreTime], T]) -> Callable[[StoreTime], T]:
    """Return what does the same and always answers as the first time: how things stood before."""
    answers: list[T] = []

    def remembering(now: StoreTime) -> T:
        answers.append(do(now))
        return answers[0]

    return remembering


def _transact(store: Store, do: Callable[[StoreTime], T]) -> T:
    with store.transaction() as now:
        return do(now)
