"""Bulk work on the store: a little in each transaction, and others have their turn in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TypeVar

from dispatcher import doubts
from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable
from dispatcher.model import NewTask, Submitted
from dispatcher.store.api import Store
from dispatcher.times import Instant, StoreTime, instant, pause

T = TypeVar("T")

#: Seconds that a transaction aims to take, where nobody should wait for one longer than 0.05.
AIM = 0.02

#: Seconds between two transactions: others try for the store each millisecond.
GAP = 0.005

#: Tasks, and bytes of what makes them long, in one part of a bulk submit; what is no more than
#: that is submitted in one transaction.
PART_TASKS, PART_BYTES = 250, 512 * 1024

#: Rows in one transaction: at first, and within which bounds as many as the aim allows.
FIRST, FEWEST, MOST = 100, 10, 2_000


class Turns:
    """Transactions of bulk work: `rows` is how many rows the next one should touch."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], Instant] = instant,
        wait: Callable[[float], object] = pause,
    ) -> None:
        self.rows = FIRST
        self._store = store
        self._clock = clock
        self._wait = wait
        self._ended = Instant(0.0)

    def take(self, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool = True) -> T:
        """Do a part of the work as `doubts.change` does it, when others have had their turn."""
        if (left := self._ended + GAP - self._clock()) > 0:
            self._wait(left)
        began = Instant(0.0)

        def measured(now: StoreTime) -> T:
            nonlocal began
            began = self._clock()
            return do(now)

        done = doubts.change(self._store, measured, remedy=remedy, harmless_twice=harmless_twice)
        self._ended = self._clock()
        took = max(self._ended - began, AIM / 100)
        wanted = round(self.rows * min(2.0, max(0.5, AIM / took)))
        self.rows = min(MOST, max(FEWEST, wanted))
        return done


def submit(
    store: Store,
    tasks: Iterable[NewTask],
    *,
    at_once: Callable[[list[NewTask]], list[Submitted]],
    tell: Callable[..., object],
) -> Iterator[Submitted]:
    """Accept all tasks or, when taking one of them raises, none; return what they have become.

    Few are accepted `at_once`, in one transaction. Many are put aside in parts, accepted by one
    small change, and made tasks part by part. Whoever dies before that change leaves nothing but
    what `Store.go_on` removes, and whoever dies after it nothing undone: a daemon, or the next bulk
    submit, goes on. `tell` is called as it goes on: with how many are put aside, and then with how
    many are tasks, of how many.
    """
    parts = _parts(tasks)
    first, second = next(parts, []), next(parts, None)
    if second is None:
        return iter(at_once(first))
    from uuid import uuid4  # noqa: PLC0415 - no single submit needs it

    uid, turns = uuid4().hex, Turns(store)
    while turns.take(lambda now: store.go_on(now=now), remedy="submit again"):
        pass
    try:
        sizes = [
            _stage(store, turns, uid, number, part)
            for number, part in enumerate(_told(chain([first, second], parts), tell))
        ]
        _accept(store, turns, uid)
    except BaseException:
        with suppress(DispatcherError):
            _forget(store, turns, uid)
        raise
    _admit(store, turns, uid, sum(sizes), tell)
    return _submitted(store, turns, uid, len(sizes))


def _parts(tasks: Iterable[NewTask]) -> Iterator[list[NewTask]]:
    part: list[NewTask] = []
    size = 0
    for task in tasks:
        own = len(task.payload or "") + sum(map(len, chain(task.command, task.env.values())))
        if part and (len(part) == PART_TASKS or size + own > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(task)
        size += own
    if part:
        yield part


def _told(parts: Iterable[list[NewTask]], tell: Callable[..., object]) -> Iterator[list[NewTask]]:
    done = 0
    for part in parts:
        yield part
        done += len(part)
        tell(done)


def _stage(store: Store, turns: Turns, uid: str, number: int, part: list[NewTask]) -> int:
    def stage(now: StoreTime) -> bool:
        return store.stage(uid, number, part, now=now)

    if not turns.take(stage, remedy="nothing was submitted: submit again"):
        raise StoreUnavailable(_TOO_LATE)
    return len(part)


def _accept(store: Store, turns: Turns, uid: str) -> None:
    def accept(now: StoreTime) -> bool:
        store.watch_clock()
        return store.accept(uid, now=now)

    if not turns.take(accept, remedy="see `dispatcher list` in a minute, before you submit again"):
        raise StoreUnavailable(_TOO_LATE)


def _admit(store: Store, turns: Turns, uid: str, many: int, tell: Callable[..., object]) -> None:
    done = 0
    try:
        while turns.take(lambda now: store.admit(uid, now=now), remedy="wait"):
            done = min(many, done + PART_TASKS)
            tell(done, many)
    except (StoreUnavailable, CommitUnknown, KeyboardInterrupt) as error:
        why = str(error) or "interrupted"
        raise CommitUnknown(
            f"all {many} tasks are accepted, and not all of them are listed yet: do not submit"
            f" them again, a daemon goes on within seconds ({why})"
        ) from error


def _submitted(store: Store, turns: Turns, uid: str, parts: int) -> Iterator[Submitted]:
    try:
        for number in range(parts):
            with store.snapshot():
                made = store.submitted(uid, number)
            if made is None:
                raise CommitUnknown(
                    "all tasks are accepted, but their ids were kept for an hour only, in which"
                    " this process stood still: see `dispatcher list`"
                )
            yield from made
    finally:
        with suppress(DispatcherError):
            _forget(store, turns, uid)


def _forget(store: Store, turns: Turns, uid: str) -> None:
    while turns.take(lambda _: store.forget(uid), remedy="it goes by itself in an hour"):
        pass


_TOO_LATE = (
    "nothing was submitted: this submit stood still for more than an hour, and what it had put"
    " aside was removed; submit again"
)
