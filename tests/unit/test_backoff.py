"""Delays that double."""

from dispatcher.backoff import Backoff


def test_a_delay_doubles_from_the_first_to_the_longest_and_begins_anew() -> None:
    backoff = Backoff(1.0, 5.0)

    assert [1.0, 2.0, 4.0, 5.0, 5.0] == [backoff.grow() for _ in range(5)]

    backoff.reset()
    assert (0.0, 1.0) == (backoff.delay, backoff.grow())
