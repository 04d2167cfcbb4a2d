"""What is due when: as a plain search for the earliest would find it, at the cost of a heap."""

from random import Random

from dispatcher.executor.agenda import LEAST_KEPT, Agenda
from dispatcher.times import NEVER, Instant


def test_things_are_taken_once_and_the_earliest_first() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.plan("late", Instant(3.0))
    agenda.plan("early", Instant(1.0))
    agenda.plan("as early", Instant(1.0))

    assert agenda.due == 1.0
    assert ["early", "as early"] == agenda.take(Instant(2.0))
    assert [] == agenda.take(Instant(2.0))
    assert agenda.due == 3.0


def test_a_thing_that_is_put_off_or_dropped_is_not_due() -> None:
    agenda: Agenda[str] = Agenda()
    for thing in ("put off", "dropped", "never", "moved up"):
        agenda.plan(thing, Instant(1.0))
    agenda.plan("put off", Instant(5.0))
    agenda.drop("dropped")
    agenda.plan("never", NEVER)
    agenda.plan("moved up", Instant(0.5))

    assert ["moved up"] == agenda.take(Instant(4.0))
    assert agenda.due == 5.0
    assert ["put off"] == agenda.take(Instant(5.0))
    assert agenda.due == NEVER


def test_it_agrees_with_a_search_whatever_is_planned() -> None:
    random, agenda, plain = Random(7), Agenda[int](), dict[int, Instant]()
    for _ in range(5000):
        thing, at = random.randrange(30), Instant(float(random.randrange(100)))
        match random.randrange(5):
            case 0 | 1:
                agenda.plan(thing, at)
                plain[thing] = at
            case 2:
                agenda.drop(thing)
                plain.pop(thing, None)
            case 3:
                due = {one for one, when in plain.items() if when <= at / 4}
                assert due == set(agenda.take(Instant(at / 4)))
                plain = {one: when for one, when in plain.items() if one not in due}
            case _:
                assert agenda.due == min(plain.values(), default=NEVER)


def test_what_is_dropped_long_before_it_is_due_is_not_kept() -> None:
    agenda: Agenda[int] = Agenda()
    agenda.plan(-1, Instant(9.0))
    for thing in range(10 * LEAST_KEPT):
        agenda.plan(thing, Instant(1e6))
        agenda.drop(thing)

    assert agenda.size <= LEAST_KEPT + 4
    assert [-1] == agenda.take(Instant(9.0))
    assert agenda.due == NEVER
