"""Cutting output into pieces, each of which becomes a record of systemd's journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: Bytes of a record's message, as of a line that services write to the journal: 48 KiB there.
MOST_OF_PIECE = 48 << 10


class Piece(NamedTuple):
    """One message."""

    text: bytes
    end: int
    """Offset of its end, with its line end, in the data that it was cut from."""
    line_break: str = ""
    """Why its last line is not whole: `line-max`, the next piece continues it; `eof`, the end."""


def pieces(data: bytes, *, last: bool, single: bool) -> Iterator[Piece]:
    """Yield the data that may be sent now: whole lines, and parts of a line longer than a piece.

    `last`: nothing follows, so a rest without a line end is sent too. `single`: each line alone;
    otherwise as many as fit together.
    """
    search = data.find if single else data.rfind
    start = 0
    while start < len(data):
        end = search(b"\n", start, start + MOST_OF_PIECE + 1)
        if end >= 0:
            yield Piece(data[start:end], end + 1)
            start = end + 1
        elif len(data) - start > MOST_OF_PIECE:
            end = _character_before(data, start + MOST_OF_PIECE)
            yield Piece(data[start:end], end, "line-max")
            start = end
        else:
            if last:
                yield Piece(data[start:], len(data), "eof")
            return


def _character_before(data: bytes, end: int) -> int:
    """Return the begin of the UTF-8 character that a cut at `end` would split."""
    for start in range(end, end - 4, -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return end
