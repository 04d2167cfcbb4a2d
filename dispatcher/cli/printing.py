"""What verbs print: JSON, and what happens when stdout cannot take it."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import click
import msgspec

from dispatcher.errors import DispatcherError


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    # As bytes: JSON is UTF-8, whatever the terminal's encoding is.
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: object) -> None:
    click.echo(msgspec.json.encode(value))


def print_json_list(values: Iterable[object]) -> None:
    """Print values as an indented JSON list, with one of them in memory at a time."""
    opening = "["
    for value in values:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        sys.stdout.write(f"{opening}\n{text}".replace("\n", "\n  "))
        opening = ","
    click.echo("[]" if opening == "[" else "\n]")


def print_queue_changes(
    changed: Mapping[str, bool], words: tuple[str, str], *, as_json: bool
) -> None:
    """Print each queue with the first of `words` if it changed, else with the second."""
    if as_json:
        print_json([{"queue": queue, "done": done} for queue, done in changed.items()])
        return
    for queue, done in changed.items():
        click.echo(f"{queue} {words[0] if done else words[1]}")


@contextmanager
def printed(unprinted: Callable[[str], DispatcherError]) -> Iterator[None]:
    """Flush stdout at the body's end; raise what `unprinted` returns for why that failed."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # of another file
            raise
        forget_stdout()
        raise unprinted(error.strerror or str(error)) from error


def is_closed() -> bool:
    """Return whether stdout was closed when this program started: `cli.app` has replaced it."""
    return getattr(sys.stdout, "name", None) == os.devnull


def forget_stdout() -> None:
    """Drop what could not be written: the interpreter would try again at its end."""
    with suppress(OSError, ValueError, AttributeError):  # stdout may be no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
