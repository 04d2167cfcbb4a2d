"""Tables for people: on a terminal they fit its width, elsewhere each line is whole and plain."""

import os
import shutil
import sys
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

_GAP = "  "

#: Columns that the widest cells keep while other columns can be left out.
READABLE = 16

_BOLD = "1"

#: The colours of states and outcomes.
_COLOURS = {
    "succeeded": "32",
    "failed": "31",
    "lost": "31",
    "timed_out": "31",
    "stalled": "31",
    "oom_killed": "31",
    "spawn_failed": "31",
    "cancelled": "2",
    "held": "33",
    "running": "36",
    "scheduled": "34",
    "waiting": "35",
}


class CommandCell(Struct, frozen=True):
    """The cell of a command, which is cut in the middle, after the name and labels of its task.

    Each is one line. The name is cut last; the labels keep half of the columns that it leaves.
    """

    command: str
    name: str = ""
    labels: str = ""

    def __str__(self) -> str:
        return self._text(self.labels, self.command)

    def cut(self, columns: int) -> str:
        """Return a text that takes at most so many columns."""
        room = columns - width(self._text("", ""))
        labels = self.labels
        if self.labels and width(str(self)) > columns:
            labels = cut(self.labels, max(1, room // 2 - len("[] ")))
        left = columns - width(self._text(labels, ""))
        if left < 1:
            return cut(self._text("", self.command), columns)
        return self._text(labels, cut(self.command, left, in_middle=True))

    def _text(self, labels: str, command: str) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"{name}[{labels}] {command}" if labels else name + command


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    spare: Sequence[str] = (),
    alike: Collection[str] = (),
) -> None:
    """Print rows under headings, as `table` returns them."""
    lines = table(headings, rows, spare=spare, alike=alike)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    spare: Sequence[str] = (),
    readable: int = READABLE,
    alike: Collection[str] = (),
) -> list[str]:
    """Return the lines of rows under headings.

    A terminal shows no column that is empty, and none of `alike` that has one value. While the
    widest cells would keep less than `readable` of its columns, the next of `spare` is left out.
    Then they are cut: texts at their end, a `CommandCell` as it does that itself.
    """
    values = [headings, *map(tuple, rows)]
    cells = [[_text(value) for value in row] for row in values]
    columns = list(range(len(headings)))
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        columns = _informative(cells, alike)
        room = shutil.get_terminal_size().columns
        widest = _cut_width(widths, columns, room)
        for heading in spare:
            if widest >= min(readable, max(widths[column] for column in columns)):
                break
            if (spared := headings.index(heading)) in columns:
                columns.remove(spared)
                widest = _cut_width(widths, columns, room)
        widths = [min(one, widest) for one in widths]
    paint = _painted if is_colourful() else _unpainted
    lines = []
    for number, row in enumerate(cells):
        fitted = (_fitted(values[number][at], row[at], widths[at]) for at in columns)
        padded = (
            paint(text + " " * (widths[at] - width(text)), row[at], number)
            for at, text in zip(columns, fitted, strict=True)
        )
        lines.append(_GAP.join(padded).rstrip())
    return lines


def is_colourful() -> bool:
    """Return whether stdout is a terminal with colours that are wanted (https://no-color.org)."""
    return (
        sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and (os.environ.get("TERM") or "dumb") != "dumb"
    )


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def cut(text: str, columns: int, *, in_middle: bool = False) -> str:
    """Return a text that takes at most so many columns, with "…" for what is left out."""
    if width(text) <= columns:
        return text
    tail = _end(text, (columns - 1) // 2) if in_middle else ""
    return f"{_beginning(text, columns - 1 - width(tail))}…{tail}"


def _beginning(text: str, columns: int) -> str:
    while width(text) > columns:
        text = text[: min(len(text) - 1, columns)]
    return text


def _end(text: str, columns: int) -> str:
    while width(text) > columns:
        text = text[max(1, len(text) - columns) :]
    return text


def _width_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Cf", "Me", "Mn"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def _fitted(value: object, text: str, columns: int) -> str:
    return value.cut(columns) if isinstance(value, CommandCell) else cut(text, columns)


def _informative(cells: Sequence[Sequence[str]], alike: Collection[str]) -> list[int]:
    """Return the columns with information about the rows; all if there are no rows."""
    headings, *rows = cells
    values = [{row[column] for row in rows} for column in range(len(headings))]
    return [
        column
        for column, found in enumerate(values)
        if found != {""} and (len(rows) < 2 or len(found) > 1 or headings[column] not in alike)
    ]


def _cut_width(widths: Sequence[int], columns: Sequence[int], room: int) -> int:
    room -= len(_GAP) * (len(columns) - 1)
    taken = sorted(widths[column] for column in columns)
    for number, one in enumerate(taken):
        share = room // (len(taken) - number)
        if one > share:
            return max(1, share)
        room -= one
    return max(taken)


def _text(value: object) -> str:
    return "" if value is None else str(value).replace("\n", "\\n").replace("\t", "\\t")


def _painted(fitted: str, text: str, number: int) -> str:
    colour = _COLOURS.get(text) if number else _BOLD
    return f"\x1b[{colour}m{fitted}\x1b[0m" if colour else fitted


def _unpainted(fitted: str, _text: str, _number: int) -> str:
    return fitted
