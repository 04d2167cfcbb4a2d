"""Files, and stdin, that options of `submit` name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import click

from dispatcher.cli.lines import LONGEST
from dispatcher.errors import InvalidTask
from dispatcher.task_checks import MAX_PAYLOAD


def lines(source: str) -> Iterator[bytes]:
    """Yield the lines of a file or stdin, those longer than `LONGEST` in pieces."""
    with _opened("from", source) as file:
        while line := file.readline(LONGEST + 1):
            yield line


def payload(given: str | None) -> str | None:
    """Return the payload from the option itself, a @FILE or stdin."""
    if given is None or not (given == "-" or given.startswith("@")):
        return given
    try:
        return _content("payload", given.removeprefix("@"), limit=MAX_PAYLOAD).decode()
    except UnicodeDecodeError:
        raise InvalidTask("payload: is not UTF-8; encode it so") from None


def _content(option: str, source: str, *, limit: int) -> bytes:
    """Return the content of a file or stdin, up to a byte beyond the limit."""
    with _opened(option, source) as file:
        return file.read(limit + 1)


@contextmanager
def _opened(option: str, source: str) -> Iterator[BinaryIO]:
    """Open a file or stdin. Raises `InvalidTask`, which names it, also while it is read."""
    try:
        with click.open_file(source, "rb") as file:
            yield cast("BinaryIO", file)
    except OSError as error:
        raise InvalidTask(f"{option}: {source}: {error.strerror}; name a file to read") from None
