"""How output is cut into records of the journal."""

import pytest

from dispatcher.executor.output.stream import MOST_OF_PIECE, Piece, pieces


def cut(data: bytes, *, last: bool = False, single: bool = True) -> list[Piece]:
    return list(pieces(data, last=last, single=single))


def test_each_line_is_one_record_and_an_unfinished_line_waits() -> None:
    assert [Piece(b"one", 4), Piece(b"", 5), Piece(b"two\0\xff", 11)] == cut(
        b"one\n\ntwo\0\xff\nthr"
    )


def test_the_last_line_may_have_no_end() -> None:
    assert [Piece(b"one", 4), Piece(b"two", 7, "eof")] == cut(b"one\ntwo", last=True)
    assert [Piece(b"one", 4)] == cut(b"one\n", last=True)
    assert [] == cut(b"", last=True)


@pytest.mark.parametrize("size", [MOST_OF_PIECE, MOST_OF_PIECE + 1, 3 * MOST_OF_PIECE])
def test_a_line_that_is_too_long_goes_on_in_the_next(size: int) -> None:
    *parts, last = cut(b"x" * size + b"\nnext\n")

    assert b"next" == last.text
    assert b"x" * size == b"".join(piece.text for piece in parts)
    *broken, whole = parts
    assert {"line-max"} >= {piece.line_break for piece in broken}
    assert ("", size + 1) == (whole.line_break, whole.end)


def test_no_character_is_split() -> None:
    line = "x" + "€" * MOST_OF_PIECE
    texts = [piece.text.decode() for piece in cut(line.encode(), last=True)]
    assert line == "".join(texts)

    binary = b"\x80" * (2 * MOST_OF_PIECE)
    assert binary == b"".join(piece.text for piece in cut(binary, last=True))


def test_lines_that_may_not_be_alone_share_pieces() -> None:
    flood = b"y\n" * MOST_OF_PIECE
    parts = cut(flood + b"z", single=False)

    assert 2 == len(parts)
    assert flood == b"".join(piece.text + b"\n" for piece in parts)
    assert len(flood) == parts[-1].end
    assert [Piece(b"one\ntwo", 8)] == cut(b"one\ntwo\nthr", single=False)
