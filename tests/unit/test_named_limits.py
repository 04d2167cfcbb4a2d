"""Named limits: rates, what a claim has room for, and what a person is told."""

import pytest

from dispatcher.calendar import Calendar
from dispatcher.limit_room import Room, room
from dispatcher.limit_views import LimitView, obstacles, viewed
from dispatcher.named_limits import Closing, Rate, Rule, of_queue, parse_rate
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime

NOW = StoreTime(1_700_000_000_000)
CALENDAR = Calendar(NOW, 0)


def view(**facts: object) -> LimitView:
    return LimitView(**{"name": "provider", **facts})  # type: ignore[arg-type]


def closed(until: int | None = None) -> Closing:
    then = None if until is None else StoreTime(NOW + until)
    return Closing(name="provider", closed_at=NOW, closed_until=then, closed_reason="why")


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10/1m", Rate(10, Milliseconds(60_000))), (" 1 / 250ms", Rate(1, Milliseconds(250)))],
)
def test_a_rate_is_a_number_in_a_time(text: str, rate: Rate) -> None:
    assert rate == parse_rate(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0/1m", "a rate of 0 lets nothing start; raise it"),
        ("10", "is not a rate; write for example"),
        ("-1/1m", "is not a rate"),
        ("10/", "is not a rate"),
        ("10/0s", "is not from 1ms to 30d"),
        ("10/31d", "is not from 1ms to 30d"),
        ("10/soon", "soon"),
        ("10001/1h", "is more than 10000"),
    ],
)
def test_another_rate_is_refused_with_the_remedy(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_rate(text)


def test_a_task_may_take_no_more_than_the_smaller_number() -> None:
    assert 3 == Rule(concurrency=3, rate=Rate(5, Milliseconds(1))).most
    assert 5 == Rule(rate=Rate(5, Milliseconds(1))).most
    assert Rule().most is None


def test_room_is_what_is_left_of_the_smaller_number_and_none_while_it_is_closed() -> None:
    rule = Rule(concurrency=4, rate=Rate(5, Milliseconds(1)))

    def left(**facts: object) -> int:
        return room([view(**facts)], now=NOW).most({"provider": 1}, 9)

    assert 4 == left(rule=rule)
    assert 1 == left(rule=rule, holders={7: 3})
    assert 2 == left(rule=rule, started=3)
    assert 0 == left(rule=rule, holders={7: 5}), "as after a reload that lowers it"
    assert 0 == left(rule=rule, closing=closed())
    assert 0 == left(closing=closed(1)), "also one that is not configured"
    assert 4 == left(rule=rule, closing=closed(0))
    assert 9 == left()
    assert 0 == room([], busy=["provider"], now=NOW).most({"provider": 1}, 9)


def test_a_claim_takes_each_limit_of_a_task_or_none() -> None:
    found = Room({"a": 2, "b": 1})

    assert found.admits({"a": 1, "b": 1})
    assert not found.admits({"a": 1, "b": 1})
    assert found.admits({"a": 1}), "the task before it took nothing of it"
    assert not found.admits({"a": 1})
    assert found.admits({"other": 5})


def test_a_task_that_takes_much_keeps_what_is_left_from_those_behind_it() -> None:
    found = Room({"a": 3})

    assert 1 == found.most({"a": 4}, 9), "it is read, for its place in the order"
    assert not found.admits({"a": 4})
    assert not found.admits({"a": 1})


def test_r47_a_task_that_needs_more_than_the_limit_ever_allows_keeps_nothing() -> None:
    """As after a reload that lowers it."""
    for rule in (Rule(concurrency=3), Rule(rate=Rate(3, Milliseconds(9)))):
        found = room([view(rule=rule)], now=NOW)

        assert 0 == found.most({"provider": 4}, 9), "it is not read"
        assert 3 == found.most({"provider": 1}, 9)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (Rule(concurrency=3), "limit_full"),
        (Rule(rate=Rate(3, Milliseconds(60_000))), "limit_rate"),
    ],
    ids=str,
)
def test_a_person_is_told_that_a_limit_never_has_enough(rule: Rule, kind: str) -> None:
    views = {"provider": view(rule=rule)}

    ((found, text, until),) = obstacles("q", {"provider": 4}, views, CALENDAR)

    assert (kind, None) == (found, until)
    assert "it needs 4 of limit provider, which never lets one task take more than 3" in text
    assert "[limits.provider]" in text


def test_a_closed_queue_that_has_no_rule_here_is_no_obstacle() -> None:
    """No claim looks at it: its breaker was removed."""
    name = of_queue("q")
    row = Closing(name=name, closed_at=NOW, closed_reason="5 failures", probe="")

    assert {} == viewed({}, [row], {})
    assert [name] == [*viewed({name: Rule(concurrency=2)}, [row], {})]


def test_r47_a_blocked_task_keeps_nothing_from_those_behind_it() -> None:
    """It waits for another limit, which has no room at all."""
    found = Room({"a": 3, "full": 0})

    assert 0 == found.most({"a": 4, "full": 1}, 9)
    assert not found.admits({"a": 4, "full": 1})
    assert found.admits({"a": 3})


def test_there_may_be_room_by_itself_at_the_earliest_of_their_times() -> None:
    rated = view(
        name="rated", rule=Rule(rate=Rate(1, Milliseconds(9))), next_start_at=StoreTime(NOW + 9)
    )

    assert NOW + 5 == room([view(closing=closed(5)), rated], now=NOW).opens_at
    assert NOW + 9 == room([view(closing=closed()), rated], now=NOW).opens_at
    assert room([view(closing=closed())], now=NOW).opens_at is None


@pytest.mark.parametrize(
    ("facts", "kind", "said"),
    [
        ({"closing": closed(5)}, "limit_closed", "is closed since 2023-11-14T22:13:20.000Z, until"),
        ({"closing": closed()}, "limit_closed", "until somebody opens it: why; dispatcher limit o"),
        (
            {"rule": Rule(concurrency=2), "holders": {3: 1, 1: 1}},
            *("limit_full", "limit provider has 2 of 2 held by tasks 1, 3"),
        ),
        (
            {"rule": Rule(concurrency=9), "holders": dict.fromkeys(range(1, 10), 1)},
            *("limit_full", "held by tasks 1, 2, 3 and 6 more"),
        ),
        (
            {"rule": Rule(rate=Rate(2, Milliseconds(60_000))), "started": 2},
            *("limit_rate", "limit provider lets 2/1m start, and 2 have"),
        ),
    ],
)
def test_a_person_is_told_which_limit_and_who_holds_it(
    facts: dict[str, object], kind: str, said: str
) -> None:
    views = {"provider": view(**facts)}

    ((found, text, _),) = obstacles("q", {"provider": 1}, views, CALENDAR)

    assert kind == found
    assert said in text


def test_a_limit_with_room_and_one_that_nobody_configures_are_no_obstacles() -> None:
    views = {"provider": view(rule=Rule(concurrency=2), holders={1: 1}), "gone": view(name="gone")}

    assert [] == list(obstacles("q", {"provider": 1, "gone": 5, "never": 1}, views, CALENDAR))
    assert ["limit_full"] == [
        kind for kind, _, _ in obstacles("q", {"provider": 2}, views, CALENDAR)
    ]


def test_a_queue_on_all_nodes_is_such_a_limit_without_a_name_for_its_tasks() -> None:
    name = of_queue("q")
    views = {name: LimitView(name=name, rule=Rule(concurrency=2), running=2)}

    ((kind, text, _),) = obstacles("q", {}, views, CALENDAR)

    assert "queue_full" == kind
    assert "its queue q has 2 running on all nodes" in text
    assert [] == list(obstacles("other", {}, views, CALENDAR))
