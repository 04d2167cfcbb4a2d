"""What a verb did, and could not print: its caller must learn of it by other means."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dispatcher.errors import DispatcherError


@contextmanager
def printed(unprinted: Callable[[str], DispatcherError]) -> Iterator[None]:
    """Write stdout out at the body's end; raise what `unprinted` makes of why that cannot be."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # of another file
            raise
        forget_stdout()
        raise unprinted(error.strerror or str(error)) from error


def is_closed() -> bool:
    """Say whether stdout was closed when this program started: `cli.app` has replaced it."""
    return getattr(sys.stdout, "name", None) == os.devnull


def forget_stdout() -> None:
    """Drop what could not be written: the interpreter would try again at its end."""
    with suppress(OSError, ValueError, AttributeError):  # where it is no file there is no end
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
