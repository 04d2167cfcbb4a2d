"""What is shown while the demo runs: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """How one task stands, or all the files together."""

    name: str
    does: str
    state: str
    runs: str
    """The outcomes of its runs so far."""
    news: str = ""
    """Where there is no table, the row is worth a line when this has changed; empty: any change."""

    def __str__(self) -> str:
        return f"  {self.name}: {self.state}" + (f" ({self.runs})" if self.runs else "")


class Screen:
    """Shows rows and says sentences; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._told: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        """Show how things stand now."""
        if self._live is not None:
            self._live.update(_table(rows), refresh=True)
            return
        for row in rows:
            news = row.news or str(row)
            if self._told.get(row.name) != news:
                self._told[row.name] = news
                self.say(str(row))

    def say(self, text: str) -> None:
        """Say a sentence, above the table."""
        self._console.print(text, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Row]) -> Table:
    table = Table("task", "what it does", "state", "its runs so far")
    for row in rows:
        table.add_row(row.name, row.does, row.state, row.runs)
    return table
