"""Changes of the store by people and programs, with commits whose result is unknown."""

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
    """Call `do` in a transaction, and return its result.

    If the commit's result is unknown, try once more, where that does no harm. Raises
    `CommitUnknown` with the `remedy` if that is impossible or fails: a second failure proves
    nothing about the first commit. An interrupted commit (Ctrl-C, an exception of a signal handler)
    is unknown too, and is not tried again. Any other error means that nothing was written.
    """
    commits = False

    def attempt(now: StoreTime) -> T:
        nonlocal commits
        result = do(now)
        commits = True
        return result

    try:
        return _transact(store, attempt)
    except CommitUnknown as error:
        cause: BaseException = error
    except DispatcherError:
        raise
    except BaseException as error:
        if not commits:
            raise
        cause, harmless_twice = error, False
    text = f"{error_text(cause)}; it may have been done or not: {remedy}"
    if harmless_twice:
        try:
            return _transact(store, do)
        except (StoreUnusable, StoreRefused) as error:
            text += f"; tried again: {error}"
        except BaseException as error:
            raise CommitUnknown(text) from error
    raise CommitUnknown(text) from cause


def cause_of(error: BaseException) -> BaseException:
    """Return the cause of a `CommitUnknown` that `change` raised; else the error itself."""
    return (error.__cause__ or error) if isinstance(error, CommitUnknown) else error


def error_text(error: BaseException) -> str:
    """Return an error's message, "interrupted" for Ctrl-C."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) or type(error).__name__


@contextmanager
def report_done(what: str) -> Iterator[None]:
    """Turn any error of the body into a `CommitUnknown` that names what was done before."""
    try:
        yield
    except BaseException as error:
        raise CommitUnknown(f"{what} ({error_text(cause_of(error))})") from error


def first_answer(do: Callable[[StoreTime], T]) -> Callable[[StoreTime], T]:
    """Return a function that calls `do`, but always returns the first result: the state before."""
    answers: list[T] = []

    def remembering(now: StoreTime) -> T:
        answers.append(do(now))
        return answers[0]

    return remembering


def _transact(store: Transactions, do: Callable[[StoreTime], T]) -> T:
    with unstopped(), store.transaction() as now:
        return do(now)
