"""What a tick costs depends on what happened, not on how many runs live.

Counted are the live runs that it looks at, the rows that it reads, and the steps of SQLite's
machine, of which a scan of the open runs takes some for each.
"""

from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace

from dispatcher.model import Declared, Liveness
from dispatcher.supervisor.live_runs import LiveRun, LiveRuns
from dispatcher.words import Accepted, Renewed
from tests.simulation import SETTINGS, World
from tests.unit.test_leases import Line, ends

FEW, MANY = 10, 1_000

#: Without the search for the claims of others, which looks at all open runs at this interval.
RARELY = replace(SETTINGS, reap_interval=3_600.0)

#: Of the runs that only live.
LONG: dict[str, Any] = {"lease_ttl_ms": 40_000_000, "run_timeout_ms": 30_000_000}


class Cost:
    """Counts what a tick looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.runs: set[int] = set()
        self.keys = self.rows = self.steps = 0

    def watch(self, world: World) -> None:
        """Count from now on."""
        engine = cast("Any", world.store).engine
        plain = engine.rows

        def rows(*args: Any) -> Any:
            found = plain(*args)
            self.rows += len(found)
            return found

        def step() -> None:
            self.steps += 1

        engine.rows = rows
        engine.connection.set_progress_handler(step, 1)
        self._monkeypatch.setattr(LiveRun, "__getattribute__", self._noting(self._note_run))
        for name in ("__iter__", "keys", "values", "items"):
            self._monkeypatch.setattr(LiveRuns, name, self._counting(getattr(LiveRuns, name)))

    def _noting(self, note: Callable[[Any], None]) -> Callable[[Any, str], Any]:
        def read(run: Any, name: str) -> Any:
            note(run)
            return object.__getattribute__(run, name)

        return read

    def _note_run(self, run: Any) -> None:
        self.runs.add(id(run))

    def _counting(self, plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counted(runs: Any) -> Any:
            self.keys += len(runs)
            return plain(runs)

        return counted

    def figures(self) -> dict[str, int]:
        return {"runs": len(self.runs), "keys": self.keys, "rows": self.rows, "steps": self.steps}


class Crowd(World):
    """A world with a few runs of which something is heard, among many that only live."""

    def __init__(self, many: int) -> None:
        limits = {"default": many + 1}
        super().__init__(settings=replace(RARELY, slots=many, concurrency=limits))
        self.executor.greet()
        self.process = self._started(run_timeout_ms=10_000)
        self.worker = Line(self, self._started(liveness=Liveness.WORKER))
        for number in range(many - 2):
            self.submit(liveness=Liveness.WORKER if number % 2 else Liveness.PROCESS, **LONG)
        self.submit(**LONG)
        self.settle_down()
        self.run_for(5.0 - self.elapsed)
        assert many == len(self.executor.runs)

    def _started(self, **facts: Any) -> int:
        task_id = self.submit(**{**LONG, **facts})
        self.settle_down()
        return task_id


def nothing(world: Crowd) -> None:
    world.elapsed += 0.01
    world.tick()


def a_poll(world: Crowd) -> None:
    world.run_for(SETTINGS.poll)


def an_exit_and_the_next_start(world: Crowd) -> None:
    starts = len(world.executor.starts)
    world.gone(world.process)
    assert starts + 1 == len(world.executor.starts)


def a_beat(world: Crowd) -> None:
    assert isinstance(world.worker.beat(), Renewed)


def a_declaration(world: Crowd) -> None:
    assert isinstance(world.worker.declare(Declared.SUCCEED), Accepted)


def a_cancellation(world: Crowd) -> None:
    world.cancel(world.process)
    world.settle_down()
    assert ["cancelled"] == ends(world)


def a_time_out(world: Crowd) -> None:
    world.run_for(5.0)
    assert ["timed_out"] == ends(world)


HAPPEN = [
    nothing,
    a_poll,
    an_exit_and_the_next_start,
    a_beat,
    a_declaration,
    a_cancellation,
    a_time_out,
]


def cost(
    monkeypatch: pytest.MonkeyPatch, world: Crowd, happens: Callable[[Crowd], None]
) -> dict[str, int]:
    with monkeypatch.context() as patch:
        counted = Cost(patch)
        counted.watch(world)
        happens(world)
    return counted.figures()


@pytest.mark.parametrize("happens", HAPPEN, ids=lambda happens: happens.__name__)
def test_a_tick_costs_the_same_among_few_runs_and_many(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[Crowd], None]
) -> None:
    few, many = (cost(monkeypatch, Crowd(number), happens) for number in (FEW, MANY))
    assert few == many
