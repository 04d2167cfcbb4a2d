"""Shares of free slots by the weights of queues."""

import random
from collections import Counter

import pytest

from dispatcher.supervisor.shares import NOBODY, LastTurn, shares


@pytest.mark.parametrize(
    ("free", "weights", "last_turn", "found", "then"),
    [
        (1, {"a": 1, "b": 1}, NOBODY, [1, 0], LastTurn("a", 0)),
        (3, {"a": 1, "b": 1}, NOBODY, [2, 1], LastTurn("a", 0)),
        (4, {"a": 3, "b": 3}, NOBODY, [3, 1], LastTurn("b", 2)),
        (1, {"b": 3, "a": 3}, LastTurn("b", 2), [1, 0], LastTurn("b", 1)),
        (3, {"b": 3, "a": 3}, LastTurn("b", 2), [2, 1], LastTurn("a", 2)),
        (8, {"a": 3, "b": 1}, NOBODY, [6, 2], LastTurn("b", 0)),
        (9, {"a": 3, "b": 1}, LastTurn("a", 1), [7, 2], LastTurn("a", 0)),
        (2, {"c": 9}, LastTurn("b", 5), [2], LastTurn("c", 7)),
        (2, {"b": 1}, LastTurn("b", 5), [2], LastTurn("b", 0)),
    ],
)
def test_queues_take_turns_of_as_many_claims_as_their_weight(
    free: int, weights: dict[str, int], last_turn: LastTurn, found: list[int], then: LastTurn
) -> None:
    answer = shares(free, [*weights.items()], last_turn)

    assert (found, then) == ([*answer.shares], answer.then)


@pytest.mark.parametrize("seed", range(20))
def test_over_time_each_queue_gets_its_part_however_many_slots_are_free_at_once(seed: int) -> None:
    rng = random.Random(seed)
    weights = {name: rng.randint(1, 9) for name in "abcdef"}
    whole = sum(weights.values())
    got: Counter[str] = Counter()
    last_turn, claims = NOBODY, 0
    while claims < 50 * whole:
        names = sorted(weights)
        turn = names.index(last_turn.queue) if last_turn.queue else -1
        begin = turn + (not last_turn.left)
        order = [names[(begin + n) % len(names)] for n in range(len(names))]
        free = rng.randint(1, 12)
        answer = shares(free, [(one, weights[one]) for one in order], last_turn)
        assert free == sum(answer.shares)
        got.update(dict(zip(order, answer.shares, strict=True)))
        last_turn, claims = answer.then, claims + free
        for name, weight in weights.items():
            assert abs(got[name] - claims * weight / whole) <= weight
