"""Tasks that were accepted, and ids of them that cannot be printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dispatcher import commits
from dispatcher.errors import CommitUnknown
from dispatcher.model import Submitted

#: Tasks that are named on stderr where stdout takes no ids.
_MOST_NAMED = 20


class AcceptedTasks:
    """What was submitted, and the first ids of it for where they cannot be printed."""

    def __init__(self, submitted: Iterable[Submitted]) -> None:
        self._submitted = submitted
        self._ids: list[int] = []
        self._more = False

    def __iter__(self) -> Iterator[Submitted]:
        """Yield what was submitted."""
        for one in self._submitted:
            self._more = len(self._ids) == _MOST_NAMED
            if not self._more:
                self._ids.append(one.task_id)
            yield one

    def named(self) -> str:
        """Return which tasks these are, as far as they are known."""
        ids = " ".join(map(str, self._ids))
        if len(self._ids) == 1:
            return f"task {ids} was submitted, and its id is not printed"
        named = f"tasks {ids}" + (", and all that follow," if self._more else "")
        return f"{named if ids else 'all tasks'} were submitted, and not all ids are printed"


@contextmanager
def answering(seen: AcceptedTasks) -> Iterator[None]:
    """Report which tasks were accepted if it cannot be printed. Raises `CommitUnknown`."""
    try:
        yield
        sys.stdout.flush()
    except (KeyboardInterrupt, OSError) as error:
        told = isinstance(error, OSError) and error.strerror
        why = f"cannot write: {told}" if told else commits.error_text(error)
        raise CommitUnknown(f"{seen.named()}: do not submit again ({why})") from error
