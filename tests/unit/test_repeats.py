import math

from dispatcher.logs.repeats import BURST, INTERVAL, MOST, Repeats
from dispatcher.times import Instant

HOUR = 3600


def lines(repeats: Repeats, *, seconds: int, every: float = 1.0, error: str = "e") -> list[int]:
    """Log an error again and again; return the count of omitted lines in each of its lines."""
    omitted = []
    for number in range(int(seconds / every)):
        left_out = repeats.admit("x.failed", ("error",), {"error": error}, Instant(number * every))
        if left_out is not None:
            omitted.append(left_out)
    return omitted


def test_r51_an_error_that_repeats_costs_a_line_a_minute_after_a_first_burst() -> None:
    omitted = lines(Repeats(), seconds=HOUR, every=0.1)

    assert [0] * BURST == omitted[:BURST]
    assert BURST + HOUR / INTERVAL >= len(omitted) >= BURST + HOUR / INTERVAL - 2
    total = len(omitted) + sum(omitted)
    assert 36_000 - INTERVAL * 10 <= total <= 36_000, "each was written, or counted"


def test_errors_that_differ_do_not_hide_each_other() -> None:
    repeats = Repeats()
    lines(repeats, seconds=HOUR)

    assert 0 == repeats.admit("x.failed", ("error",), {"error": "other"}, Instant(HOUR))
    assert 0 == repeats.admit("y.failed", (), {"error": "e"}, Instant(HOUR))


def test_the_end_of_a_repetition_is_logged_once_with_the_count_of_omitted_lines() -> None:
    repeats = Repeats()
    assert math.inf == repeats.due
    lines(repeats, seconds=BURST + 5)

    last = BURST + 4
    assert BURST + INTERVAL <= repeats.due <= last + INTERVAL
    assert [] == list(repeats.ended(Instant(repeats.due)))
    assert last + INTERVAL == repeats.due
    assert [{"of": "x.failed", "same": {"error": "e"}, "left_out": 5}] == list(
        repeats.ended(Instant(repeats.due))
    )
    assert math.inf == repeats.due
    assert [0] * BURST == lines(repeats, seconds=BURST), "a new burst"


def test_rare_events_are_never_left_out() -> None:
    assert [0] * 60 == lines(Repeats(), seconds=60 * 61, every=61)


def test_the_count_of_omitted_lines_is_logged_at_the_end_of_the_process() -> None:
    repeats = Repeats()
    lines(repeats, seconds=BURST + 5)

    assert [5] == [facts["left_out"] for facts in repeats.unreported()]
    assert [] == list(repeats.unreported())


def test_memory_is_bounded_however_many_differ() -> None:
    repeats = Repeats()
    for number in range(10 * MOST):
        repeats.admit("x.failed", ("error",), {"error": number}, Instant(0.0))

    assert MOST == len(repeats)
