import pytest

from dispatcher.quantities import durations
from dispatcher.quantities.durations import Milliseconds


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("200ms", 200),
        ("0ms", 0),
        ("1.5s", 1_500),
        ("0.25s", 250),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("30d", 2_592_000_000),
        ("1w", 604_800_000),
        ("2h30m", 9_000_000),
        ("1m20s", 80_000),
        ("1w1d1h1m1s1ms", 694_861_001),
        ("5m5ms", 300_005),
    ],
)
def test_a_duration_is_numbers_with_their_units(text: str, milliseconds: int) -> None:
    assert milliseconds == durations.parse(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (250, "250ms"), (1_500, "1500ms"), (2_000, "2s"), (7_200_000, "2h")],
)
def test_a_duration_is_shown_in_the_largest_unit_that_keeps_it_whole(
    milliseconds: int, text: str
) -> None:
    assert text == str(Milliseconds(milliseconds))
    assert milliseconds == durations.parse(text)
    assert milliseconds / 1000 == Milliseconds(milliseconds).seconds


@pytest.mark.parametrize(
    "text", ["", "h", "30m2h", "1h1h", "2h30", "1h 30m", "2 h", "-1h", "1h-5m"]
)
def test_units_stand_in_their_order_and_each_has_its_number(text: str) -> None:
    with pytest.raises(
        ValueError, match="is not a duration; write a number and ms, s, m, h, d or w"
    ):
        durations.parse(text)
