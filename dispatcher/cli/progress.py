"""A bar on stderr while long work goes on: only where that is a terminal, and only when it is long.

Rich draws it, and is imported when the first bar is drawn: whoever waits has the time.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dispatcher.times import Instant, instant

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds of work that nobody needs to be told of, and between two pictures of a bar.
_PATIENCE = 0.5
_FRAME = 0.1

#: Called with how much is done, and of how much where that has changed.
Tell = Callable[..., None]


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Tell]:
    """Give a function that shows how much of some work is done; the bar goes when the work ends.

    The total is None as long as nobody knows it: until then what is to be done is only read.
    """
    shown = _Bar(what, total)
    try:
        yield shown.tell if is_watched() else _unheard
    finally:
        shown.close()


def is_watched() -> bool:
    """Say whether stderr is a terminal that can draw."""
    dumb = (os.environ.get("TERM") or "dumb") == "dumb"
    return not dumb and sys.stderr.isatty()


def _unheard(_done: int, _total: int | None = None) -> None:
    pass


class _Bar:
    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._next = Instant(instant() + _PATIENCE)
        self._drawn: Progress | None = None
        self._task: TaskID

    def tell(self, done: int, total: int | None = None) -> None:
        now = instant()
        if now < self._next or not _has_room():
            return
        self._next = Instant(now + _FRAME)
        self._total = total or self._total
        what = "read" if self._total is None else self._what
        if self._drawn is None:
            self._drawn = _drawn()
            self._task = self._drawn.add_task(what, completed=done, total=self._total)
            self._drawn.start()
        self._drawn.update(
            self._task, description=what, completed=done, total=self._total, refresh=True
        )

    def close(self) -> None:
        if self._drawn is not None and _has_room():
            self._drawn.stop()


def _has_room() -> bool:
    """Say whether the terminal takes what is drawn; after Ctrl-S it does not."""
    room = select.poll()
    room.register(sys.stderr, select.POLLOUT)
    return bool(room.poll(0))


def _drawn() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - only who waits pays for it
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,  # that may be a pipe, and what is in it is not for the terminal
    )
