"""Changes of the store for people and programs: also when nobody knows whether one was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dispatcher.errors import CommitUnknown, DispatcherError, StoreRefused, StoreUnusable
from dispatcher.host.signals import unstopped
from dispatcher.store.api import Transactions
from dispatcher.times import StoreTime

T = TypeVar("T")


def change(
    store: Transactions, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool = True
) -> T:
    """Do something in a transaction, and return what it returned.

    Where the commit got no clear answer it is done once more, if that does no harm. Raises
    `CommitUnknown` with the `remedy` where that is not possible either, whatever kept it from being
    so: no failure of a second time proves anything of the first. Whatever interrupts a commit
    (Ctrl-C, what a signal's handler raises) is no clear answer either, and nothing is done after
    it. Any other error means that nothing was written.
    """
    began = False

    def ending(now: StoreTime) -> T:
        nonlocal began
        done = do(now)
        began = True
        return done

    try:
        return _transact(store, ending)
    except CommitUnknown as error:
        doubt: BaseException = error
    except DispatcherError:
        raise
    except BaseException as error:
        if not began:
            raise
        doubt, harmless_twice = error, False
    told = f"{error_text(doubt)}; so it was done, or it was not: {remedy}"
    if harmless_twice:
        try:
            return _transact(store, do)
        except (StoreUnusable, StoreRefused) as error:
            told += f"; asked again: {error}"
        except BaseException as error:
            raise CommitUnknown(told) from error
    raise CommitUnknown(told) from doubt


def cause_of(error: BaseException) -> BaseException:
    """Return what caused a doubt that `change` raised; any other error is its own cause."""
    return (error.__cause__ or error) if isinstance(error, CommitUnknown) else error


def error_text(error: BaseException) -> str:
    """Return what ended some work: an error's own words, or that it was interrupted."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) or type(error).__name__


@contextmanager
def report_done(told: str) -> Iterator[None]:
    """Raise `CommitUnknown`, which says what was done before, whatever ends the body early."""
    try:
        yield
    except BaseException as error:
        raise CommitUnknown(f"{told} ({error_text(cause_of(error))})") from error


def first_answer(do: Callable[[StoreTime], T]) -> Callable[[StoreTime], T]:
    """Return what does the same and always answers as the first time: how things stood before."""
    answers: list[T] = []

    def remembering(now: StoreTime) -> T:
        answers.append(do(now))
        return answers[0]

    return remembering


def _transact(store: Transactions, do: Callable[[StoreTime], T]) -> T:
    with unstopped(), store.transaction() as now:
        return do(now)
