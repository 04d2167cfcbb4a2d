"""Tables for people. The only place that imports rich, which costs a submit's whole time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Columns where nobody's terminal says how wide it is: a pipe wants whole lines.
_PIPE_WIDTH = 10_000

_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "dim",
    "held": "yellow",
    "running": "cyan",
    "scheduled": "blue",
}


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headings; on a terminal they fit its width, the last column gives way."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        last = heading == headings[-1]
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, highlight=False, soft_wrap=False)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    sys.stdout.flush()


def _cell(value: object) -> Text:
    text = "" if value is None else str(value)
    return Text(text, style=_STYLES.get(text, ""))
