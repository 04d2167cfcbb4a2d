"""The command line on a host whose clock is set: with no daemon to notice it, and after one did."""

import time

import pytest

from dispatcher.times import HOST_CLOCK, iso
from tests.command import Command

DAY = 86_400


class Clock:
    """The host's clock, which is set at will."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by = 0
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + self.by * 10**9)

    def shows(self) -> str:
        return iso(HOST_CLOCK.wall())[:16]


def notice(command: Command) -> None:
    """Watch the clock, as a daemon does each second."""
    with command.client() as client, client.store.transaction():
        client.store.watch_clock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_prune_deletes_nothing_that_a_step_made_look_old(command: Command, clock: Clock) -> None:
    command("submit", "--", "true")
    command("cancel", 1)

    clock.by = 40 * DAY

    assert "would delete: 0 tasks" in command("prune", "--dry-run").stdout
    assert "deleted: 0 tasks" in command("prune", "--older-than", "30d").stdout


def test_claim_fails_nobody_and_makes_nothing_due_for_a_step(
    command: Command, clock: Clock
) -> None:
    command("submit", "--queue", "q", "--total-timeout", "1h", "--queue-timeout", "1h", "--", "a")
    command("submit", "--queue", "later", "--delay", "1h", "--", "b")

    clock.by = 40 * DAY

    assert 1 == command("claim", "--queue", "q", "--json").json["task_id"]
    assert "nothing to claim" in command("claim", "--queue", "later", exits=1).stderr


@pytest.mark.parametrize("step", [40 * DAY, -DAY])
def test_dates_are_those_that_the_hosts_clock_showed_and_will_show(
    command: Command, clock: Clock, step: int
) -> None:
    before = clock.shows()
    command("submit", "--", "true")
    command("cancel", 1)
    clock.by = step
    command("submit", "--delay", "1d", "--", "true")

    old, new = command("show", 1, "--json").json, command("show", 2, "--json").json

    assert [before] * 2 == [old["created_at"][:16], old["finished_at"][:16]]
    assert clock.shows() == new["created_at"][:16]
    clock.by += DAY
    assert clock.shows() == new["run_at"][:16]


def test_a_list_since_a_date_compares_the_dates_that_it_shows(
    command: Command, clock: Clock
) -> None:
    command("submit", "--", "true")
    clock.by = 40 * DAY
    command("submit", "--", "true")

    dates = [task["created_at"] for task in command("list", "--oldest-first", "--json").json]
    assert dates == sorted(dates)
    since = command("list", "--since", f"{dates[1][:10]}T00:00Z", "--json").json
    until = command("list", "--until", f"{dates[1][:10]}T00:00Z", "--json").json
    recent = command("list", "--since", "1h", "--json").json
    found = tuple([task["id"] for task in some] for some in (since, until, recent))
    assert ([2], [1], [2, 1]) == found


def test_status_and_doctor_show_a_step_for_a_day(command: Command, clock: Clock) -> None:
    command("submit", "--", "true")
    command("cancel", 1)
    assert "clock" not in command("status").stdout
    assert "the host's clock was not set within a day" in command("doctor").stdout

    clock.by = -DAY
    notice(command)

    message = "the host's clock was set back by 1d at "
    assert message in command("status").stdout
    assert message in command("doctor").stdout
    found = command("status", "--json").json["clock"]
    assert -DAY * 1000 == pytest.approx(found["step_ms"], abs=1_000)
    assert -DAY * 1000 == pytest.approx(found["ahead_ms"], abs=1_000)
