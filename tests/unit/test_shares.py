"""Shares of free slots by the weights of queues."""

import random
from collections import Counter

import pytest

from dispatcher.supervisor.shares import NOBODY, Standing, shares


@pytest.mark.parametrize(
    ("free", "weights", "standing", "found", "then"),
    [
        (1, {"a": 1, "b": 1}, NOBODY, [1, 0], Standing("a", 0)),
        (3, {"a": 1, "b": 1}, NOBODY, [2, 1], Standing("a", 0)),
        (4, {"a": 3, "b": 3}, NOBODY, [3, 1], Standing("b", 2)),
        (1, {"b": 3, "a": 3}, Standing("b", 2), [1, 0], Standing("b", 1)),
        (3, {"b": 3, "a": 3}, Standing("b", 2), [2, 1], Standing("a", 2)),
        (8, {"a": 3, "b": 1}, NOBODY, [6, 2], Standing("b", 0)),
        (9, {"a": 3, "b": 1}, Standing("a", 1), [7, 2], Standing("a", 0)),
        (2, {"c": 9}, Standing("b", 5), [2], Standing("c", 7)),
        (2, {"b": 1}, Standing("b", 5), [2], Standing("b", 0)),
    ],
)
def test_queues_take_turns_of_as_many_claims_as_their_weight(
    free: int, weights: dict[str, int], standing: Standing, found: list[int], then: Standing
) -> None:
    answer = shares(free, [*weights.items()], standing)

    assert (found, then) == ([*answer.shares], answer.then)


@pytest.mark.parametrize("seed", range(20))
def test_over_time_each_queue_gets_its_part_however_many_slots_are_free_at_once(seed: int) -> None:
    rng = random.Random(seed)
    weights = {name: rng.randint(1, 9) for name in "abcdef"}
    whole = sum(weights.values())
    got: Counter[str] = Counter()
    standing, claims = NOBODY, 0
    while claims < 50 * whole:
        names = sorted(weights)
        turn = names.index(standing.queue) if standing.queue else -1
        begin = turn + (not standing.left)
        order = [names[(begin + n) % len(names)] for n in range(len(names))]
        free = rng.randint(1, 12)
        answer = shares(free, [(one, weights[one]) for one in order], standing)
        assert free == sum(answer.shares)
        got.update(dict(zip(order, answer.shares, strict=True)))
        standing, claims = answer.then, claims + free
        for name, weight in weights.items():
            assert abs(got[name] - claims * weight / whole) <= weight
