"""Complaints about JSON are in words, never in msgspec's."""

import re
from typing import Annotated, Any

import msgspec
import pytest

from dispatcher.complaints import in_words
from dispatcher.words import parse_request


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({"a": "x", "b": 1}, dict[str, str], "b: expected a text in quotes, got an integer"),
        (["a", 1], list[str], "item 2: expected a text in quotes, got an integer"),
        (1.5, int | str | None, "expected an integer or a text in quotes, got a number with a"),
        ([], Annotated[list[str], msgspec.Meta(min_length=1)], "expected a list that is not empty"),
        ("a b", Annotated[str, msgspec.Meta(pattern="^a$")], "'a b' is not a name; use up to 100"),
        ({}, int, "expected an integer, got a table"),
    ],
)
def test_a_value_of_the_wrong_kind_is_reported_in_words(
    value: object, kind: Any, message: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(value, kind)

    words = in_words(error.value, value, table="a table")
    assert words.startswith(message)
    assert not set("`$") & set(words)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "the line is empty; write one JSON object"),
        (b"  ", "the line is empty"),
        (b'{"op"', "not JSON: it ends too early"),
        (
            b'"\\ud83d"',
            "not JSON: \\ud83d is half of a surrogate pair; write both halves, or the ch",
        ),
        (b'{"a": "\\ud800", "b": "more"}', "not JSON: \\ud800 is half of a surrogate pair"),
        (b'{"\\ud83d\\ude00\\\\ud800": "\\uDC01', "not JSON: \\uDC01 is half of"),
        (b'{"\\ud83d\\ude00\\\\ud800', "not JSON: it ends too early"),
        (b"junk", "not JSON: invalid character (byte 0)"),
        (b"[]", "expected an object, got a list"),
        (b'{"op": "fly"}', "op: 'fly' is not heartbeat or succeed or fail or defer or hold"),
        (b'{"op": "beat"}', "did you mean 'heartbeat'?"),
        (b'{"task_id": 1}', "op: is missing"),
        (b'{"op": "heartbeat", "lock": "x"}', "task_id: is missing"),
        (
            b'{"op": "heartbeat", "lock": "x", "task_id": "1"}',
            "task_id: expected an integer, got a text in quotes",
        ),
        (
            b'{"op": "heartbeat", "lock": "x", "task_id": 1, "progress": 2}',
            "progress: expected a number <= 1.0",
        ),
        (b'{"op": "hold", "lock": "x", "task_id": 1, "reason": "\xff"}', "is not UTF-8"),
        (b'{"x": ' + b"[" * 60_000, "is nested too deeply"),
        (
            b'{"op": "succeed", "lock": "x", "task_id": 1, "result": ' + b"[" * 60_000,
            "is nested too deeply",
        ),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_workers_line_that_makes_no_sense_is_refused_in_words(line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        parse_request(line)

    assert not set("`$") & set(str(error.value))
