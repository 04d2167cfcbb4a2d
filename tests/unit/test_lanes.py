"""The lanes of ready tasks, their order, and the rounds of queues with very many lanes."""

import random

import pytest

from dispatcher.lanes import OPEN, STRICT, allowed, is_of, lane, needs, rank, takes
from dispatcher.supervisor.rounds import Rounds
from dispatcher.times import StoreTime

NOW = StoreTime(1_700_000_000_000)
MINUTE = 60_000


def test_a_lane_is_one_text_whatever_the_order_of_its_labels() -> None:
    assert lane({"a": "1", "b": "2"}) == lane({"b": "2", "a": "1"}) != lane({"a": "1"})
    assert OPEN == lane({})


@pytest.mark.parametrize("requires", [{}, {"gpu": "a100"}, {"b": 'x"\n', "a": "é😀"}])
def test_a_lane_tells_what_it_needs(requires: dict[str, str]) -> None:
    found = needs(lane(requires))

    assert found is not None
    assert requires == found.requires
    assert is_of(lane(requires), requires, {})


def test_a_lane_tells_which_limits_its_tasks_take() -> None:
    both = lane({"gpu": "a100"}, {"b": 2, "a": 1})

    assert both == lane({"gpu": "a100"}, {"a": 1, "b": 2}) != lane({"gpu": "a100"})
    assert {"a": 1, "b": 2} == takes(both)
    assert is_of(both, {"gpu": "a100"}, {"a": 1, "b": 2})
    assert not is_of(both, {"gpu": "a100"}, {"a": 1})
    assert {} == takes("nope")


def test_a_node_may_claim_of_the_lanes_whose_labels_it_has_and_of_damaged_ones() -> None:
    lanes = [lane(one) for one in ({}, {"a": "1"}, {"a": "2"}, {"a": "1", "b": "2"})]

    assert {OPEN: 7, lanes[1]: 7, "nope": 7} == allowed([*lanes, "nope"], {"a": "1"}, 7)


def test_the_order_by_rank_is_that_of_priority_and_waiting_at_every_moment() -> None:
    rng = random.Random(5)
    minutes, ageing = 7, 7 * MINUTE
    tasks = [(StoreTime(NOW + rng.randrange(10**9)), rng.randrange(-50, 50)) for _ in range(300)]

    def urgency(task: tuple[StoreTime, int], moment: int) -> float:
        created_at, priority = task
        return priority + (moment - created_at // 1000) / (minutes * 60)

    by_rank = sorted(tasks, key=lambda task: (rank(*task, ageing), task))
    for moment in (0, NOW // 1000, NOW):
        found = [round(urgency(task, moment), 6) for task in by_rank]
        assert sorted(found, reverse=True) == found


def test_without_ageing_every_priority_is_a_world_of_its_own_and_all_ranks_fit() -> None:
    ends = [StoreTime(0), StoreTime(60 * 365 * 86_400_000)]
    priorities = [-(2**31), 1 - 2**31, -1, 0, 1, 2**31 - 2, 2**31 - 1]
    found = [[rank(at, one, None) for at in ends] for one in reversed(priorities)]
    flat = [one for pair in found for one in pair]

    assert sorted(flat) == flat
    assert len({*flat}) == len(flat)
    assert -(2**63) < flat[0] < flat[-1] < 2**63 - 1
    assert rank(NOW, 3, STRICT * 1000) == rank(NOW, 3, None)


@pytest.mark.parametrize(("priority", "end"), [(2**62, -(2**63)), (-(2**62), 2**63 - 1)])
def test_a_priority_written_by_hand_leads_to_an_end_of_the_order(priority: int, end: int) -> None:
    assert end == rank(NOW, priority, None)


# Rounds ----------------------------------------------------------------------------------


def goes_on(rounds: Rounds, *looks: tuple[str | None, bool]) -> list[bool]:
    return [rounds.goes_on("q", last, is_enough=enough) for last, enough in looks]


def test_claims_follow_each_other_until_a_whole_round_has_found_nothing() -> None:
    rounds = Rounds()

    assert [True, True, False] == goes_on(rounds, ("c", False), ("f", False), (None, False))
    assert "" == rounds.after("q")


def test_a_claim_that_got_all_it_should_ends_the_round_and_the_next_looks_behind_it() -> None:
    rounds = Rounds()

    assert [False] == goes_on(rounds, ("c", True))
    assert "c" == rounds.after("q")
    # Behind it is nothing; what is before it was looked at when there was no free slot.
    assert [True, True, False] == goes_on(rounds, (None, False), ("c", False), (None, False))


def test_what_others_wrote_makes_another_whole_round() -> None:
    rounds = Rounds()

    assert [True] == goes_on(rounds, ("c", False))
    rounds.begin_anew()
    assert [True, True, False] == goes_on(rounds, (None, False), ("c", False), (None, False))


def test_a_round_of_one_queue_is_not_that_of_another_and_a_copy_is_by_itself() -> None:
    rounds = Rounds()
    copy = rounds.copy()
    copy.goes_on("q", "c", is_enough=True)

    assert ("c", "", "") == (copy.after("q"), copy.after("other"), rounds.after("q"))
