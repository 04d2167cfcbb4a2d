"""Sizes as people write them."""

import pytest

from dispatcher.quantities import sizes


@pytest.mark.parametrize(
    ("text", "size"), [("64KiB", 65536), ("1.5MiB", 1572864), ("10GiB", 10 << 30)]
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert size == sizes.parse(text)


def test_a_size_is_written_in_its_largest_whole_unit() -> None:
    assert "64MiB" == str(sizes.parse("64MiB"))
    assert "1536KiB" == str(sizes.parse("1.5MiB"))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [(64, "add its unit"), ("64 MB", "write a number and KiB"), ("9999999TiB", "larger than")],
)
def test_an_invalid_size_is_refused_with_the_remedy(text: object, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        sizes.parse(text)
