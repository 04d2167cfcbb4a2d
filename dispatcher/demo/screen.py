"""The demo's screen: a live table on a terminal, a line for each change elsewhere."""

import re
from collections.abc import Sequence
from io import StringIO
from typing import Self

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

#: Columns of the picture: the longest promise fits, and a page shows it legibly.
_PICTURE_WIDTH = 106

_COLOURS = (
    (r"\bsucceeded\b", "green"),
    (r"\b(failed|lost|spawn_failed)\b", "red"),
    (r"\b(deferred|scheduled)\b", "yellow"),
    (r"\b(running|fence \d+ runs)\b", "cyan"),
)


class DemoFailed(Exception):
    """The play could not go on; the message ends with the daemon's last lines."""


class TaskRow(Struct, frozen=True):
    """The state of one task, or of all the files together."""

    name: str
    does: str
    state: str
    runs: str
    """The outcomes of its runs so far."""
    news: str = ""
    """Without a table, a change of this prints a line; "": any change does."""

    def __str__(self) -> str:
        return f"  {self.name}: {self.state}" + (f" ({self.runs})" if self.runs else "")


class Screen:
    """Shows rows and sentences; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._printed: dict[str, str] = {}
        self._rows: Sequence[TaskRow] = ()
        self._scenes: list[str | Sequence[TaskRow]] = []

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Sequence[TaskRow]) -> None:
        self._rows = rows
        if self._live is not None:
            self._live.update(_table(rows), refresh=True)
            return
        for row in rows:
            news = row.news or str(row)
            if self._printed.get(row.name) != news:
                self._printed[row.name] = news
                self._print(str(row))

    def write(self, text: str) -> None:
        """Print a sentence above the table."""
        if self._rows and self._rows not in self._scenes:
            self._scenes.append(self._rows)
        self._scenes.append(text)
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def picture(self) -> str:
        """Return all sentences as SVG, each with the table of its time."""
        console = Console(
            file=StringIO(), record=True, width=_PICTURE_WIDTH, force_terminal=True, no_color=False
        )
        for scene in self._scenes:
            console.print(scene if isinstance(scene, str) else _table(scene), highlight=False)
        drawn = console.export_svg(title="dispatcher demo", unique_id="demo")
        # A picture in a page may load nothing: it uses the page's own monospaced font.
        return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def _table(rows: Sequence[TaskRow]) -> Table:
    table = Table("task", "what it does", "state", "its runs so far", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(row.name, row.does, _coloured(row.state), _coloured(row.runs))
    return table


def _coloured(words: str) -> Text:
    text = Text(words)
    for pattern, colour in _COLOURS:
        text.highlight_regex(pattern, colour)
    return text
