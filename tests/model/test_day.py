import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dispatcher.store.clock import Clock
from dispatcher.supervisor.reaper import Reaper
from dispatcher.supervisor.turn import Memory
from dispatcher.times import StoreTime
from tests.model.day import Day
from tests.model.on_a_server import ServerWorld
from tests.model.plants import PLANTS, statement
from tests.postgres import Postgres

FUZZ = "FUZZ" in os.environ

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("seed", range(200 if FUZZ else 1))
def test_ac9_r07_r09_a_day_of_a_hundred_workers_and_much_trouble(seed: int) -> None:
    """The diligent live, the silent are found out in time, nobody has a twin.

    A morning, or with FUZZ=1 a whole day.
    """
    day = Day(seed, hours=24.0 if FUZZ else 3.0)

    day.run()

    judge(day)


@pytest.mark.skipif(not FUZZ, reason="make fuzz has days on a server: an hour takes 20 s of CPU")
@pytest.mark.parametrize("seed", range(10 if FUZZ else 1))
def test_ac9_a_day_on_a_server_keeps_the_same_promises(
    seed: int, postgres: Postgres, tmp_path: Path
) -> None:
    day = Day(seed, hours=8.0, make=partial(ServerWorld, server=postgres, state_dir=tmp_path))
    with closing(day.world.store):
        day.run()

        judge(day)


def judge(day: Day) -> None:
    day.judge_the_end()
    assert len(day.losses) > 4 * day.hours
    assert day.refused > 4 * day.hours
    assert day.beats > 400 * day.hours


def _nothing(*_: object) -> None:
    pass


def _reaps_without_the_executors_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "is_served_by", lambda self, _: self.hello is not None)
    monkeypatch.setattr(Reaper, "_confirmed", lambda self, expired, turn: expired)


def _spares_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reaper, "_spare_after_absence", _nothing)


def _goes_by_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "_store_time", lambda self, instant: StoreTime(self._host.wall()))


def _never_looks_for_the_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reaper, "end_lost_runs", _nothing)


@pytest.mark.parametrize(
    "plant",
    [
        _reaps_without_the_executors_answer,
        _spares_nobody,
        _goes_by_the_hosts_clock,
        _never_looks_for_the_lost,
        PLANTS[0].put,  # a heartbeat that stamps liveness only
        statement("RENEW", "liveness = 'process' OR", "TRUE OR"),
    ],
)
def test_a_day_finds_a_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    day = Day(0)

    with pytest.raises(AssertionError):
        day.run()
