"""Cron lines and time zones: which times they mean, also where clocks change, and mistakes."""

from datetime import UTC, datetime

import pytest

from dispatcher import cron
from dispatcher.schedules import CatchUp, Overlap, Schedule
from dispatcher.times import WallTime

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def schedule(line: str, zone: str = "UTC", catch_up: CatchUp = CatchUp.ONE) -> Schedule:
    return Schedule(name="s", cron=line, time_zone=zone, catch_up=catch_up, overlap=Overlap.SKIP)


def at(text: str) -> WallTime:
    """Return a time in UTC."""
    return WallTime(round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000))


def shown(moment: WallTime) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%d. %H:%M")


def between(one: Schedule, first: str, last: str) -> list[str]:
    found = []
    for moment in cron.times(one, at(first)):
        if moment > at(last):
            return found
        found.append(shown(moment))
    return found


#: Berlin: 2026-03-29 02:00 becomes 03:00; 2026-10-25 03:00 becomes 02:00. In UTC both are at 01:00.
BERLIN = [
    # A time of day that is left out fires when it is over; one that comes twice fires once.
    ("30 2 * * *", "2026-03-28", "2026-03-31", ["28. 01:30", "29. 01:00", "30. 00:30"]),
    ("30 2 * * *", "2026-10-24", "2026-10-27", ["24. 00:30", "25. 00:30", "26. 01:30"]),
    # Both times that the change makes one fire once.
    ("0 2,3 * * *", "2026-03-28T23:00", "2026-03-29T23:00", ["29. 01:00"]),
    # With a star, real time counts: each hour, and each quarter of an hour that comes twice.
    ("30 * * * *", "2026-03-29T00:00", "2026-03-29T02:00", ["29. 00:30", "29. 01:30"]),
    (
        "30 * * * *",
        "2026-10-25T00:00",
        "2026-10-25T02:00",
        ["25. 00:30", "25. 01:30"],
    ),
    (
        "*/30 2 * * *",
        "2026-10-25T00:00",
        "2026-10-25T03:00",
        ["25. 00:30", "25. 01:00", "25. 01:30"],
    ),
    ("*/30 2 * * *", "2026-03-28T20:00", "2026-03-30T00:15", ["30. 00:00"]),
]


@pytest.mark.parametrize(("line", "first", "last", "expected"), BERLIN)
def test_r92_times_where_the_clock_changes(
    line: str, first: str, last: str, expected: list[str]
) -> None:
    assert expected == between(schedule(line, "Europe/Berlin"), first, last)


def test_times_go_on_after_any_time_as_from_long_before() -> None:
    """Each start of a search finds the same times: none twice, none left out."""
    lines = ("30 2 * * *", "0 2,3 * * *", "*/15 * * * *", "10,40 2 * * SUN", "59 0-4 * * *")
    for zone in ("Europe/Berlin", "America/New_York", "UTC"):
        for day in ("2026-03-28", "2026-10-24", "2026-10-31"):
            for line in lines:
                one, end = schedule(line, zone), at(day) + 3 * DAY
                every = cron._between(one, at(day), WallTime(end))
                assert every == sorted(set(every))
                for start in range(at(day), end, 193 * MINUTE):
                    expected = [moment for moment in every if moment > start]
                    found = cron._between(one, WallTime(start), WallTime(end))
                    assert expected == found, (line, zone, start)


NOW = at("2026-08-01T12:00:30")


@pytest.mark.parametrize(
    ("catch_up", "settled", "expected"),
    [
        (CatchUp.NONE, "2026-08-01T11:59:30", ["01. 12:00"]),
        (CatchUp.NONE, "2026-07-30T12:00", ["01. 12:00"]),
        (CatchUp.ONE, "2026-07-30T12:00", ["01. 12:00"]),
        (CatchUp.ALL, "2026-08-01T09:30", ["01. 10:00", "01. 11:00", "01. 12:00"]),
    ],
)
def test_times_that_are_on_time(catch_up: CatchUp, settled: str, expected: list[str]) -> None:
    one = schedule("0 * * * *", catch_up=catch_up)

    assert expected == [shown(moment) for moment in cron.due(one, at(settled), NOW)]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (CatchUp.NONE, []),
        (CatchUp.ONE, ["01. 03:00"]),
        (CatchUp.ALL, ["30. 03:00", "31. 03:00", "01. 03:00"]),
    ],
)
def test_r92_what_is_made_up_for_after_an_outage(catch_up: CatchUp, expected: list[str]) -> None:
    one = schedule("0 3 * * *", catch_up=catch_up)

    assert expected == [shown(moment) for moment in cron.due(one, at("2026-07-29T12:00"), NOW)]


def test_the_last_of_very_many_missed_times_are_found_without_going_through_all() -> None:
    one = schedule("* * * * *", catch_up=CatchUp.ALL)
    settled = at("2016-08-01")

    found = cron.due(one, settled, NOW)

    assert cron.MOST_MISSED + 1 == len(found), "and the one on time"
    assert found == sorted(found)
    assert shown(found[-1]) == "01. 12:00"
    last = cron.due(schedule("0 3 29 2 *"), settled, NOW)
    assert [datetime(2024, 2, 29, 3, tzinfo=UTC).timestamp() * 1000] == last


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("30 2 31 2 *", "'30 2 31 2 *' is no cron line: the day of month cannot be; correct it"),
        ("61 * * * *", "the minute cannot be"),
        ("0 0 * * * *", "has not five fields: minute, hour, day of the month"),
        ("@daily", "has not five fields"),
        ("", "has not five fields"),
        ("* * */20 * 1L", "fires on no day of the next 50 years; change it"),
        ("0 0 * * 8", "the day of week cannot be"),
        ("*/0 * * * *", "the minute cannot be"),
        (f"{'9' * 5000} * * * *", "is no cron line"),
        ("\u0663 * * * *", "the minute cannot be"),
        ("5L * * * *", "the minute cannot be"),
        ("0 0 * * L", "the day of week cannot be"),
        ("0 0 1/2/3 * *", "the day of month cannot be"),
        ("0 0 * * MON#1/2", "the day of week cannot be"),
    ],
)
def test_a_line_that_is_none_is_named_with_its_remedy(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        cron.check(line)
    assert message in str(caught.value)


def test_lines_that_fire_are_accepted() -> None:
    for line in ("0 3 * * *", "*/5 8-18 * * MON-FRI", "0 0 29 2 *", "0 12 L * *", "0 9 * * 5L"):
        cron.check(line)


@pytest.mark.parametrize(
    "name", ["Europe/Berlim", "", "../../etc/passwd", "/etc/passwd", "Europe", "a\0b", "CEST"]
)
def test_a_time_zone_that_nobody_knows_is_named_with_its_remedy(name: str) -> None:
    with pytest.raises(ValueError, match="this host knows no time zone"):
        cron.check_zone(name)
