"""The progress bar of `run --drain` on a terminal, below the log's lines."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache

from dispatcher.cli.progress import Progressed, bar
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.errors import DispatcherError
from dispatcher.model import FINISHED, TaskState
from dispatcher.times import Instant, instant

#: Seconds between two looks, at least; and the share of the daemon's time that looks may take.
INTERVAL = 0.25
SHARE = 0.1


#: Seconds that a look may wait for the store, and the daemon with it.
PATIENCE = 0.02


@contextmanager
def shown(config: Config) -> Iterator[Callable[[Instant], Instant]]:
    """Give a function that each turn of the loop calls; it returns when to call it again."""
    with ExitStack() as stack, bar("done", 0) as progressed:
        # Opened in the first turn: by then the daemon has found the store usable.
        opened = cache(lambda: stack.enter_context(Client(config, patience=PATIENCE)))
        yield _Onlooker(opened, progressed)


class _Onlooker:
    def __init__(self, store: Callable[[], Client], progressed: Progressed) -> None:
        self._store = store
        self._progressed = progressed
        self._due = Instant(0.0)
        self._before: int | None = None

    def __call__(self, at: Instant) -> Instant:
        if at >= self._due:
            self._due = Instant(at + INTERVAL)
            with suppress(DispatcherError):  # the daemon reports a fault of the store
                store, began = self._store(), instant()
                counts = store.counts()
                took = instant() - began
                self._show(counts.values())
                self._due = Instant(at + max(INTERVAL, took / SHARE))
        return self._due

    def _show(self, counts: Collection[Mapping[TaskState, int]]) -> None:
        finished = sum(queue.get(state, 0) for queue in counts for state in FINISHED)
        held = sum(queue.get(TaskState.HELD, 0) for queue in counts)
        everything = sum(sum(queue.values()) for queue in counts)
        if self._before is None:
            self._before = finished + held
        self._progressed(finished + held - self._before, everything - self._before)
