"""The end of a run's output: of its file, or what the store kept of it."""

import os
import sys
from contextlib import suppress

import click

from dispatcher.errors import DispatcherError
from dispatcher.host import output_files
from dispatcher.model import Run
from dispatcher.times import WallTime

#: Bytes of output shown with a run.
TAIL = 4096


def print_end(run: Run, *, exists: bool) -> None:
    """Print the end of an output from the store. Raises `DispatcherError` if nothing was kept.

    `exists`: its file is there, without that end.
    """
    if run.output_tail is None:
        raise DispatcherError(f"{run.output_path} is gone, and nothing was kept")
    what = "is gone (its worker, a person, or [output] total_budget or free_floor removed it)"
    if exists:
        what = "was emptied or replaced by another process"
    print_kept(run, f"{run.output_path} {what}; this was its end")


def print_kept(run: Run, head: str) -> None:
    """Print the end that the store kept, if there is one, under a line on stderr."""
    if run.output_tail:  # a run without output leaves no file
        click.echo(f"dispatcher: {head}:", err=True)
        sys.stdout.buffer.write(run.output_tail.encode())
        sys.stdout.buffer.flush()


def end_of(path: str) -> tuple[str, WallTime] | None:
    """Return the last text of an output, and when it was last written to; None without the file."""
    with suppress(OSError), os.fdopen(output_files.opened(path), "rb") as file:
        found = os.fstat(file.fileno())
        file.seek(-min(TAIL, found.st_size), os.SEEK_END)
        text = file.read(TAIL).decode(errors="replace").replace("\0", "")
        return text, WallTime(found.st_mtime_ns // 1_000_000)
    return None
