"""Bulk work on the store: a little in each transaction, and others have their turn in between."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar

from dispatcher import commits
from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable
from dispatcher.host.locks import Held, tried
from dispatcher.host.signals import unstopped
from dispatcher.model import NewTask, Submitted
from dispatcher.store.api import SubmitterStore
from dispatcher.store.submits import size_of
from dispatcher.times import Instant, StoreTime, instant, pause

T = TypeVar("T")

#: Seconds that a transaction aims to take, where nobody should wait for one longer than 0.05.
AIM = 0.02

#: Seconds between two transactions: others try for the store each millisecond.
GAP = 0.005

#: Seconds that bulk work waits for its turn among other bulk work, which takes AIM and GAP for one;
#: and between two tries for it.
TURN_PATIENCE, TURN_RETRY = 0.5, 0.003

#: Tasks, bytes of them as they are put aside, and seconds in which they come, in one part of a bulk
#: submit; what is no more than that is submitted in one transaction.
PART_TASKS, PART_BYTES, PART_SECONDS = 250, 512 * 1024, 60.0

#: Rows in one transaction: at first, and within which bounds as many as the aim allows.
FIRST, FEWEST, MOST = 100, 10, 2_000


class Turns:
    """Transactions of bulk work: `rows` is how many rows the next one should touch.

    Others who work in bulk on a store with this state directory take turns with us, so that the gap
    is for those who do not. One that is stopped meanwhile is waited for once, and then no more.
    """

    def __init__(
        self,
        store: SubmitterStore,
        state_dir: Path,
        *,
        clock: Callable[[], Instant] = instant,
        wait: Callable[[float], object] = pause,
    ) -> None:
        self.rows = FIRST
        self._store = store
        self._state_dir = state_dir
        self._patience = TURN_PATIENCE
        self._clock = clock
        self._wait = wait
        self._ended = Instant(0.0)

    def take(self, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool = True) -> T:
        """Do a part of the work as `commits.change` does it, when others have had their turn."""
        with unstopped(), self._turn():
            if (left := self._ended + GAP - self._clock()) > 0:
                self._wait(left)
            return self._timed(do, remedy=remedy, harmless_twice=harmless_twice)

    def _turn(self) -> Held:
        """Wait until no other bulk work has its turn, or for so long that it may be stopped."""
        until = self._clock() + self._patience
        while (held := tried(self._state_dir)) is None:
            if self._clock() >= until:
                self._patience = 0.0
                self._ended = self._clock()
                return Held(None)
            self._wait(TURN_RETRY)
            self._ended = self._clock()  # theirs ended no later than this, if it has
        self._patience = TURN_PATIENCE
        return held

    def _timed(self, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool) -> T:
        began = Instant(0.0)

        def measured(now: StoreTime) -> T:
            nonlocal began
            began = self._clock()
            return do(now)

        done = commits.change(self._store, measured, remedy=remedy, harmless_twice=harmless_twice)
        self._ended = self._clock()
        took = max(self._ended - began, AIM / 100)
        wanted = round(self.rows * min(2.0, max(0.5, AIM / took)))
        self.rows = min(MOST, max(FEWEST, wanted))
        return done


def submit(
    store: SubmitterStore,
    state_dir: Path,
    tasks: Iterable[NewTask],
    *,
    at_once: Callable[[list[NewTask]], list[Submitted]],
    tell: Callable[..., object],
    clock: Callable[[], Instant] = instant,
) -> Generator[Submitted]:
    """Accept all tasks or, when taking one of them raises, none; return what they have become.

    Few are accepted `at_once`, in one transaction. Many are put aside in parts, accepted by one
    small change, and made tasks part by part. Whoever dies before that change leaves nothing but
    what `go_on` removes, and whoever dies after it nothing undone: a daemon, or the next bulk
    submit, goes on. `tell` is called as it goes on: with how many are put aside, and then with how
    many are tasks, of how many.

    Raises `CommitUnknown` whatever ends it, Ctrl-C too, once they are accepted: its text says so.
    Any other error means that none is.
    """
    parts = _parts(tasks, clock)
    first, second = next(parts, []), next(parts, None)
    if second is None:
        return (one for one in at_once(first))
    from uuid import uuid4  # noqa: PLC0415 - no single submit needs it

    uid, turns = uuid4().hex, Turns(store, state_dir)
    try:
        while go_on(store, turns):
            pass
        sizes = [
            _stage(store, turns, uid, number, part)
            for number, part in enumerate(_told(chain([first, second], parts), tell))
        ]
    except BaseException as error:
        with suppress(DispatcherError):
            _forget(store, turns, uid)
        raise _in_vain(error) from error
    many = sum(sizes)
    _accept(store, turns, uid, many)
    with _accepted(many, _NOT_LISTED):
        _admit(store, turns, uid, sizes, tell)
    submitted = _submitted(store, turns, uid, len(sizes), many)
    next(submitted)
    return submitted


def go_on(store: SubmitterStore, turns: Turns) -> bool:
    """Take a step of `SubmitterStore.go_on`; say whether there was one to take."""
    return turns.take(lambda now: store.go_on(now=now), remedy="do the same again")


def _parts(tasks: Iterable[NewTask], clock: Callable[[], Instant]) -> Iterator[list[NewTask]]:
    """Yield parts that are bounded in each way; one that comes slowly shows that we live."""
    part: list[NewTask] = []
    size, until = 0, Instant(0.0)
    for task in tasks:
        own = size_of(task)
        if part and (len(part) == PART_TASKS or size + own > PART_BYTES or clock() >= until):
            yield part
            part, size = [], 0
        if not part:
            until = Instant(clock() + PART_SECONDS)
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


def _stage(store: SubmitterStore, turns: Turns, uid: str, number: int, part: list[NewTask]) -> int:
    def stage(now: StoreTime) -> bool:
        return store.stage(uid, number, part, now=now)

    if not turns.take(stage, remedy="nothing was submitted: submit again"):
        raise StoreUnavailable(_TOO_LATE)
    return len(part)


def _accept(store: SubmitterStore, turns: Turns, uid: str, many: int) -> None:
    """Accept what was put aside. Any error but `CommitUnknown` means that nothing was submitted."""

    def accept(now: StoreTime) -> bool:
        store.watch_clock()
        return store.accept(uid, now=now)

    try:
        is_there = turns.take(accept, remedy="the store is asked which")
    except BaseException as error:
        if _was_accepted(store, uid, many, error):
            with _accepted(many, _NOT_LISTED):
                raise
        with suppress(DispatcherError):
            _forget(store, turns, uid)
        raise _in_vain(error) from error
    if not is_there:
        raise StoreUnavailable(_TOO_LATE)


def _in_vain(error: BaseException) -> BaseException:
    """Return the error of a submit of which surely nothing is left: what caused any doubt of it."""
    cause = commits.cause_of(error)
    if isinstance(cause, CommitUnknown):
        return StoreUnavailable(f"nothing was submitted: {cause}; submit again")
    return cause


def _was_accepted(store: SubmitterStore, uid: str, many: int, error: BaseException) -> bool:
    """Say whether it was, though that ended in an error. Raises `CommitUnknown` if nobody knows."""
    if isinstance(error, DispatcherError) and not isinstance(error, CommitUnknown):
        return False  # nothing was written
    doubt = CommitUnknown(
        f"all {many} tasks are accepted, or none is: see `dispatcher list` and `dispatcher status`"
        f" before you submit them again ({commits.error_text(commits.cause_of(error))})"
    )
    try:
        with store.snapshot():
            found = store.accepted(uid)
    except BaseException as second:
        raise doubt from second
    if found is None:
        raise doubt from error
    return found


def _accepted(many: int, but: str) -> AbstractContextManager[None]:
    return commits.report_done(f"all {many} tasks are accepted: do not submit them again; {but}")


def _admit(
    store: SubmitterStore, turns: Turns, uid: str, sizes: list[int], tell: Callable[..., object]
) -> None:
    done, many, left = 0, sum(sizes), iter(sizes)
    while turns.take(lambda now: store.admit(uid, now=now), remedy="wait"):
        done += next(left, 0)
        tell(done, many)


def _submitted(
    store: SubmitterStore, turns: Turns, uid: str, parts: int, many: int
) -> Generator[Submitted]:
    """Yield something, so that from then on whoever closes it removes the ids; then yield them."""
    try:
        yield Submitted(0, created=False)
        for number in range(parts):
            with _accepted(many, "`dispatcher list` has their ids"), store.snapshot():
                made = store.submitted(uid, number)
            if made is None:
                raise CommitUnknown(_NO_IDS)
            yield from made
    finally:
        with _accepted(many, "`dispatcher list` has their ids"), suppress(DispatcherError):
            _forget(store, turns, uid)


def _forget(store: SubmitterStore, turns: Turns, uid: str) -> None:
    while turns.take(lambda _: store.forget(uid), remedy="it goes by itself in an hour"):
        pass


_NOT_LISTED = "not all of them are listed yet, a daemon goes on within seconds"

_TOO_LATE = (
    "nothing was submitted: for more than an hour no further task came, or this process stood"
    " still, and what was put aside was removed; submit again"
)

_NO_IDS = (
    "all tasks are accepted, but ids of some are not known: this process stood still for an hour,"
    " in which they were kept, or rows were changed by hand; see `dispatcher list` and `dispatcher"
    " status`"
)
