"""The lines of an output that comes in pieces."""

from collections.abc import Iterator

#: Bytes of the longest line that is read: longer ones show life, and tell nothing.
MAX_LINE = 1024 * 1024


class Lines:
    """Cuts pieces into lines; holds one line at most, and of a long one nothing."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._is_long = False

    def of(self, piece: bytes) -> Iterator[bytes]:
        """Yield the lines that this piece completes, without their ends."""
        *ends, begun = piece.split(b"\n")
        for end in ends:
            self._add(end)
            if (line := self.rest()) is not None:
                yield line
        self._add(begun)

    def rest(self) -> bytes | None:
        """Return the line that has begun, and begin another; None: it is too long, or empty."""
        line = None if self._is_long else bytes(self._begun)
        self._begun.clear()
        self._is_long = False
        return line or None

    def _add(self, part: bytes) -> None:
        if len(self._begun) + len(part) > MAX_LINE:
            self._is_long = True
            self._begun.clear()
        elif not self._is_long:
            self._begun += part
