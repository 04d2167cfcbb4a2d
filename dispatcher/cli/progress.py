"""A progress bar on stderr while long work goes on, if that is a terminal.

Rich draws it, and is imported with the first bar: by then the user is waiting anyway.
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

#: Seconds of work before a bar is drawn, and between two frames.
_PATIENCE = 0.5
_FRAME = 0.1

#: Called with the amount done, and with the total when that has changed.
Progressed = Callable[..., None]


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Progressed]:
    """Give a function that draws how much work is done; the bar disappears at the body's end.

    The total is None until it is known: meanwhile the input is read.
    """
    shown = _Bar(what, total)
    try:
        yield shown.draw if is_watched() else _ignored
    finally:
        shown.close()


def is_watched() -> bool:
    """Return whether stderr is a terminal that can draw."""
    dumb = (os.environ.get("TERM") or "dumb") == "dumb"
    return not dumb and sys.stderr.isatty()


def _ignored(_done: int, _total: int | None = None) -> None:
    pass


class _Bar:
    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._next = Instant(instant() + _PATIENCE)
        self._drawn: Progress | None = None
        self._task: TaskID

    def draw(self, done: int, total: int | None = None) -> None:
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
    """Return whether the terminal takes output; after Ctrl-S it does not."""
    room = select.poll()
    room.register(sys.stderr, select.POLLOUT)
    return bool(room.poll(0))


def _drawn() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - for the first bar
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
        redirect_stdout=False,  # it may be a pipe
    )
