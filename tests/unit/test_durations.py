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
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, milliseconds: int) -> None:
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
