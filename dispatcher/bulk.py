"""Bulk work on the store: small transactions, with gaps for other writers."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar

from dispatcher import commits
from dispatcher.environment import Environment
from dispatcher.errors import CommitUnknown, DispatcherError, StoreUnavailable
from dispatcher.host.locks import FileLock, try_directory_lock
from dispatcher.host.signals import unstopped
from dispatcher.model import Submitted
from dispatcher.new_task import NewTask
from dispatcher.store.api import SubmitterStore, Transactions
from dispatcher.store.submits import size_of
from dispatcher.times import Instant, StoreTime, instant, sleep

T = TypeVar("T")

#: Seconds that a transaction should take, so that others wait at most 0.05 for it.
AIM = 0.02

#: Seconds between two transactions: others try to lock the store each millisecond.
GAP = 0.005

#: Seconds that bulk work waits for its turn among other bulk work (AIM and GAP each), and between
#: two tries for it.
TURN_PATIENCE, TURN_RETRY = 0.5, 0.003

#: Limits of a part of a bulk submit: tasks, staged bytes, seconds in which they arrive. A submit
#: within these limits is one transaction.
PART_TASKS, PART_BYTES, PART_SECONDS = 250, 512 * 1024, 60.0

#: Rows in one transaction: at first, at least, at most; in between as many as AIM allows.
FIRST, FEWEST, MOST = 100, 10, 2_000


class Turns:
    """Transactions of bulk work; `rows` is how many rows the next one should touch.

    Bulk workers on a state directory take turns by a lock, so the gap is left to all others. A
    stopped bulk worker delays the others only once.
    """

    def __init__(
        self,
        store: Transactions,
        state_dir: Path,
        *,
        clock: Callable[[], Instant] = instant,
        wait: Callable[[float], object] = sleep,
    ) -> None:
        self.rows = FIRST
        self._store = store
        self._state_dir = state_dir
        self._patience = TURN_PATIENCE
        self._clock = clock
        self._wait = wait
        self._ended = Instant(0.0)

    def take(self, do: Callable[[StoreTime], T], *, remedy: str, harmless_twice: bool = True) -> T:
        """Do a step of the work as `commits.change` does, when it is our turn."""
        with unstopped(), closing(self._turn()):
            if (left := self._ended + GAP - self._clock()) > 0:
                self._wait(left)
            return self._timed(do, remedy=remedy, harmless_twice=harmless_twice)

    def _turn(self) -> FileLock:
        """Wait for other bulk work, but not for one that seems stopped."""
        until = self._clock() + self._patience
        while (held := try_directory_lock(self._state_dir)) is None:
            if self._clock() >= until:
                self._patience = 0.0
                self._ended = self._clock()
                return FileLock(None)
            self._wait(TURN_RETRY)
            self._ended = self._clock()  # an upper bound of when their turn ended
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
    report: Callable[..., object],
    clock: Callable[[], Instant] = instant,
) -> Generator[Submitted]:
    """Accept all tasks, or none if reading one of them raises; return what they have become.

    Few are accepted by `at_once`, in one transaction. Many are staged in parts, accepted by one
    small change, and turned into tasks part by part. A process that dies before the acceptance
    leaves only what `continue_silent` removes; after it a daemon, or the next bulk submit, goes on.
    `report` is called with the number of staged tasks, then with those of created and all tasks.

    Raises `CommitUnknown`, which reports the acceptance, for any later error and Ctrl-C. Any other
    error means that no task is accepted.
    """
    parts = _parts(tasks, clock)
    first, second = next(parts, []), next(parts, None)
    if second is None:
        return (one for one in at_once(first))
    bulk = _BulkSubmit(store, Turns(store, state_dir))
    try:
        bulk.remove_silent()
        for part in chain([first, second], parts):
            bulk.stage(part)
            report(bulk.many)
    except BaseException as error:
        raise bulk.withdrawn(error) from error
    bulk.accept()
    with bulk.accepted(_NOT_LISTED):
        bulk.admit(report)
    submitted = bulk.submitted()
    next(submitted)
    return submitted


def continue_silent(store: SubmitterStore, turns: Turns) -> bool:
    """Take a step of `SubmitterStore.continue_silent`; return whether one was needed."""
    return turns.take(lambda now: store.continue_silent(now=now), remedy="do the same again")


def _parts(tasks: Iterable[NewTask], clock: Callable[[], Instant]) -> Iterator[list[NewTask]]:
    """Yield parts within all limits; the parts of a slow source show that its client lives."""
    part: list[NewTask] = []
    environments: set[Environment | None] = {None}  # a part holds equal ones once
    size, until = 0, Instant(0.0)
    for task in tasks:
        own = size_of(task) + _more_bytes(task.environment, environments)
        if part and (len(part) == PART_TASKS or size + own > PART_BYTES or clock() >= until):
            yield part
            part, size, environments = [], 0, {None}
            own = size_of(task) + _more_bytes(task.environment, environments)
        if not part:
            until = Instant(clock() + PART_SECONDS)
        part.append(task)
        environments.add(task.environment)
        size += own
    if part:
        yield part


def _more_bytes(environment: Environment | None, known: set[Environment | None]) -> int:
    return 0 if environment is None or environment in known else environment.size


class _BulkSubmit:
    """One submit of many tasks, step by step."""

    def __init__(self, store: SubmitterStore, turns: Turns) -> None:
        from uuid import uuid4  # noqa: PLC0415 - no single submit needs it

        self._store = store
        self._turns = turns
        self._uid = uuid4().hex
        self._sizes: list[int] = []

    @property
    def many(self) -> int:
        """The number of tasks staged so far."""
        return sum(self._sizes)

    def remove_silent(self) -> None:
        """Continue or remove the bulk submits of clients that are gone."""
        while continue_silent(self._store, self._turns):
            pass

    def stage(self, part: list[NewTask]) -> None:
        """Stage a part. Raises `StoreUnavailable` if the submit was removed after an hour."""

        def stage(now: StoreTime) -> bool:
            return self._store.stage(self._uid, len(self._sizes), part, now=now)

        if not self._turns.take(stage, remedy="nothing was submitted: submit again"):
            raise StoreUnavailable(_TOO_LATE)
        self._sizes.append(len(part))

    def accept(self) -> None:
        """Accept all parts. Any error but `CommitUnknown` means that nothing was submitted."""

        def accept(now: StoreTime) -> bool:
            self._store.watch_clock()
            return self._store.accept(self._uid, now=now)

        try:
            exists = self._turns.take(accept, remedy="the store shows which")
        except BaseException as error:
            if self._was_accepted(error):
                with self.accepted(_NOT_LISTED):
                    raise
            raise self.withdrawn(error) from error
        if not exists:
            raise StoreUnavailable(_TOO_LATE)

    def withdrawn(self, error: BaseException) -> BaseException:
        """Remove the parts; return the error of a submit of which nothing is left."""
        with suppress(DispatcherError):
            self._remove()
        cause = commits.cause_of(error)
        if isinstance(cause, CommitUnknown):
            return StoreUnavailable(f"nothing was submitted: {cause}; submit again")
        return cause

    def _was_accepted(self, error: BaseException) -> bool:
        """Return whether an acceptance that raised took effect. Raises `CommitUnknown` in doubt."""
        if isinstance(error, DispatcherError) and not isinstance(error, CommitUnknown):
            return False  # nothing was written
        doubt = CommitUnknown(
            f"all {self.many} tasks are accepted, or none is: see `dispatcher list` and"
            " `dispatcher status` before you submit them again"
            f" ({commits.error_text(commits.cause_of(error))})"
        )
        try:
            with self._store.snapshot():
                found = self._store.accepted(self._uid)
        except BaseException as second:
            raise doubt from second
        if found is None:
            raise doubt from error
        return found

    def accepted(self, but: str) -> AbstractContextManager[None]:
        """Raise `CommitUnknown` for any error in the body: all is accepted, with a restriction."""
        return commits.report_done(
            f"all {self.many} tasks are accepted: do not submit them again; {but}"
        )

    def admit(self, report: Callable[..., object]) -> None:
        """Turn all parts into tasks."""
        done, left = 0, iter(self._sizes)
        while self._turns.take(lambda now: self._store.admit(self._uid, now=now), remedy="wait"):
            done += next(left, 0)
            report(done, self.many)

    def submitted(self) -> Generator[Submitted]:
        """Yield a placeholder, then all tasks; from the placeholder on, closing removes the ids."""
        try:
            yield Submitted(0, created=False)
            for number in range(len(self._sizes)):
                with self.accepted(_IDS_IN_LIST), self._store.snapshot():
                    made = self._store.submitted(self._uid, number)
                if made is None:
                    raise CommitUnknown(_NO_IDS)
                yield from made
        finally:
            with self.accepted(_IDS_IN_LIST), suppress(DispatcherError):
                self._remove()

    def _remove(self) -> None:
        while self._turns.take(
            lambda _: self._store.remove_parts(self._uid), remedy="it is removed within an hour"
        ):
            pass


_NOT_LISTED = "not all of them are listed yet; a daemon adds the rest within seconds"

_IDS_IN_LIST = "`dispatcher list` has their ids"

_TOO_LATE = (
    "nothing was submitted: no further task came for more than an hour, or this process was"
    " stopped for so long, and the staged tasks were removed; submit again"
)

_NO_IDS = (
    "all tasks are accepted, but the ids of some are unknown: this process was stopped for the hour"
    " in which they are kept, or rows were changed by hand; see `dispatcher list` and"
    " `dispatcher status`"
)
