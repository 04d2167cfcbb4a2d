"""The least of many numbers: as a plain search would find it, at the cost of a heap."""

import math
from random import Random

from dispatcher.least import SPARE, Least


def test_things_are_taken_once_and_the_least_first() -> None:
    least: Least[str] = Least()
    least.set("late", 3.0)
    least.set("early", 1.0)
    least.set("as early", 1.0)

    assert least.value == 1.0
    assert ["early", "as early"] == least.take(2.0)
    assert [] == least.take(2.0)
    assert least.value == 3.0


def test_a_number_that_has_grown_or_was_removed_holds_no_longer() -> None:
    least: Least[str] = Least()
    for thing in ("put off", "dropped", "never", "moved up"):
        least.set(thing, 1.0)
    least.set("put off", 5.0)
    least.remove("dropped")
    least.set("never", math.inf)
    least.set("moved up", 0.5)

    assert ["moved up"] == least.take(4.0)
    assert least.value == 5.0
    assert ["put off"] == least.take(5.0)
    assert least.value == math.inf


def test_it_agrees_with_a_search_whatever_is_set() -> None:
    random, least, plain = Random(7), Least[int](), dict[int, float]()
    for _ in range(5000):
        thing, at = random.randrange(30), float(random.randrange(100))
        match random.randrange(6):
            case 0 | 1:
                least.set(thing, at)
                plain[thing] = at
            case 2:
                least.remove(thing)
                plain.pop(thing, None)
            case 3:
                due = {one for one, when in plain.items() if when <= at / 4}
                assert due == set(least.take(at / 4))
                plain = {one: when for one, when in plain.items() if one not in due}
            case 4:
                found = least.up_to(at)
                assert {one for one, when in plain.items() if when <= at} == {*found}
                assert sorted(found, key=plain.__getitem__) == found
            case _:
                assert least.value == min(plain.values(), default=math.inf)


def test_what_is_removed_long_before_its_turn_is_not_kept() -> None:
    least: Least[int] = Least()
    least.set(-1, 9.0)
    for thing in range(10 * SPARE):
        least.set(thing, 1e6)
        least.remove(thing)

    assert least.size <= SPARE + 4
    assert [-1] == least.take(9.0)
    assert least.value == math.inf


def test_numbers_that_no_longer_hold_do_not_pile_up_behind_the_least() -> None:
    least: Least[str] = Least()
    least.set("first", 0)
    for number in range(10_000):
        least.set("grows", number)
        least.set("comes and goes", -number)
        least.remove("comes and goes")

    assert least.value == 0
    assert least.size <= 2 * 3 + SPARE + 1
    assert ["first", "grows"] == least.up_to(10_000)


def test_numbers_that_no_longer_hold_do_not_pile_up_behind_one_that_falls() -> None:
    least: Least[str] = Least()
    for number in range(10_000):
        least.set("falls", -number)

    assert least.value == -9_999
    assert least.size <= 2 + SPARE + 1


def test_a_number_that_is_set_again_is_found_once() -> None:
    least: Least[str] = Least()
    for number in (1, 2, 1, 2, 1):
        least.set("one", number)

    assert ["one"] == least.up_to(1) == least.up_to(1)
