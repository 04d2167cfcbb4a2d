"""Accepted tasks, the warnings of them, and the error that names those without printed ids."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

from dispatcher import commits
from dispatcher.errors import CommitUnknown
from dispatcher.model import Submitted

#: Tasks named on stderr when stdout takes no ids.
_MOST_NAMED = 20

#: Tasks with the same key and another command that are named on stderr; the rest is counted.
_MOST_WARNINGS = 10


class AcceptedTasks:
    """The tasks that were submitted; it remembers the first ids."""

    def __init__(self, submitted: Iterable[Submitted]) -> None:
        self._submitted = submitted
        self._ids: list[int] = []
        self._more = False

    def __iter__(self) -> Iterator[Submitted]:
        for one in self._submitted:
            self._more = len(self._ids) == _MOST_NAMED
            if not self._more:
                self._ids.append(one.task_id)
            yield one

    def named(self) -> str:
        """Return which tasks were submitted, as far as their ids are known."""
        ids = " ".join(map(str, self._ids))
        if len(self._ids) == 1:
            return f"task {ids} was submitted, and its id is not printed"
        named = f"tasks {ids}" + (", and all that follow," if self._more else "")
        return f"{named if ids else 'all tasks'} were submitted, and not all ids are printed"


@contextmanager
def naming_unprinted(seen: AcceptedTasks) -> Iterator[None]:
    """Raise `CommitUnknown` with the accepted tasks if the body cannot print them."""
    try:
        yield
        sys.stdout.flush()
    except (KeyboardInterrupt, OSError) as error:
        cause = isinstance(error, OSError) and error.strerror
        why = f"cannot write: {cause}" if cause else commits.error_text(error)
        raise CommitUnknown(f"{seen.named()}: do not submit again ({why})") from error


def warned(submitted: Iterable[Submitted], what: str) -> Iterator[Submitted]:
    """Yield tasks; warn of keys of other work, with `what`: "nothing was", for example."""
    others = 0
    for one in submitted:
        if one.differs and (others := others + 1) <= _MOST_WARNINGS:
            other = " and ".join(one.differs)
            warning = f"task {one.task_id} has this key already, with another {other}"
            remedy = f"{what} submitted: new work needs a new key"
            click.echo(f"dispatcher: {warning}; {remedy}", err=True)
        yield one
    if (rest := others - _MOST_WARNINGS) > 0:
        click.echo(f"dispatcher: and so have {rest} more; --json names each", err=True)
