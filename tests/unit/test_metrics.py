"""Figures: counted in memory, shown in the text format that Prometheus reads."""

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dispatcher import wire
from dispatcher.calendar import Calendar
from dispatcher.daemon_report import HistogramReport, OutputReport
from dispatcher.metrics import METRICS, exposition
from dispatcher.model import Leases, Outcome, PausedQueue, TaskState
from dispatcher.obstacles import Standing
from dispatcher.overview import Status
from dispatcher.supervisor import figures
from dispatcher.times import StoreTime
from tests.command import Command
from tests.simulation import EPOCH, World

NOW = StoreTime(1_000_000)


def status_of(world: World, **facts: object) -> Status:
    """Return what the client would: of the store, and of the supervisor."""
    with world.store.snapshot():
        standing = Standing(
            calendar=world.store.calendar(),
            paused={one.queue: one for one in world.store.paused_queues()},
            node=None,
            daemon="running",
            report=world.supervisor.report(at=world.at()),
        )
        return Status(
            standing=standing,
            counts=world.store.counts(),
            ready_since=world.store.ready_since(),
            leases=world.store.leases(),
        )


def shown(text: str) -> dict[tuple[str, ...], float]:
    """Return each sample by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_duration_is_counted_in_the_first_interval_that_holds_it() -> None:
    histogram = figures.Histogram((0.1, 1.0))

    for seconds in (0.05, 0.1, 0.5, 2.0):
        histogram.observe(seconds)

    expected = HistogramReport(bounds=(0.1, 1.0), counts=(2, 1, 1), sum=2.65)
    assert expected == histogram.report()


def test_a_day_in_figures() -> None:
    world = World().start()
    one, two = world.submit(max_attempts=1), world.submit(queue="other")
    world.submit(queue="other")
    world.settle_down()
    world.gone(one, 3)
    world.run_for(5)
    world.cancel(two)
    world.run_for(1)
    world.run_for(3)
    world.gone(two)

    status = status_of(world)
    found = shown(exposition(status, {Outcome.FAILED: 7}))

    assert (1, 2) == (found["dispatcher_up",], found["dispatcher_slots",])
    assert (1, 1) == (
        found["dispatcher_slots_used",],
        found["dispatcher_tasks", "other", "running"],
    )
    assert (3, 1) == (found["dispatcher_claims_total",], found["dispatcher_runs_total", "failed"])
    assert 1 == found["dispatcher_runs_total", "cancelled"]
    assert (7, 0) == tuple(found["dispatcher_runs_stored", o] for o in ("failed", "lost"))
    assert 1 == found["dispatcher_kill_duration_seconds_count",]
    assert 4 == pytest.approx(found["dispatcher_kill_duration_seconds_sum",], abs=1.0)
    assert (0, 1) == tuple(
        found["dispatcher_kill_duration_seconds_bucket", le] for le in ("2.5", "5.0")
    )
    assert EPOCH / 1000 == found["dispatcher_last_claim_timestamp_seconds",]
    assert 9 == found["dispatcher_lease_age_seconds",]
    assert 51 == found["dispatcher_lease_remaining_seconds",]


def test_the_time_of_the_last_event_is_given_by_the_clock_of_prometheus() -> None:
    world = World().start()
    world.step_clock(86_400)
    world.run_for(1)

    found = shown(exposition(status_of(world), {}))

    assert world.wall() / 1000 == found["dispatcher_last_tick_timestamp_seconds",]


def test_every_figure_is_shown_when_there_is_something_to_show() -> None:
    world = World().start()
    world.submit()
    world.settle_down()
    status = status_of(world)
    assert status.standing.report is not None
    output = OutputReport(bytes=70, budget_bytes=99, free_bytes=4096, floor_bytes=1, trouble=())
    status = Status(
        standing=Standing(
            calendar=Calendar(NOW, 0),
            paused={"q": PausedQueue("q", "upgrade", NOW)},
            node=None,
            daemon="running",
            report=msgspec.structs.replace(status.standing.report, output=output),
        ),
        counts={"q": {TaskState.READY: 1}},
        ready_since={"q": StoreTime(NOW - 2_500)},
        leases=Leases(1, StoreTime(NOW + 500), StoreTime(NOW - 1_000), StoreTime(NOW - 2_000)),
    )

    text = exposition(status, {})

    found = shown(text)
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {metric.name.removesuffix("_total") for metric in METRICS} == families
    assert (2.5, 1) == (
        found["dispatcher_oldest_ready_seconds", "q"],
        found["dispatcher_queue_paused", "q"],
    )
    assert (1, 0.5, 2) == tuple(
        found[f"dispatcher_{what}_seconds",]
        for what in ("lease_age", "lease_remaining", "heartbeat_age")
    )
    assert (70, 4096) == tuple(
        found[f"dispatcher_output_{what}",] for what in ("bytes", "free_bytes")
    )
    assert 1 == found["dispatcher_info", "", wire.RELEASE]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: object) -> None:
    """prometheus.io/docs/practices/naming."""
    name, kind, *_ = metric  # type: ignore[misc]

    assert re.fullmatch(r"dispatcher_[a-z]+(_[a-z]+)*", name)
    assert (kind == "counter") == name.endswith("_total")
    assert not re.search(r"_(ms|milliseconds|minutes|hours|bytes_total|percent)(_|$)", name)
    assert kind != "histogram" or name.endswith("_seconds")


def test_without_a_daemon_the_metrics_come_from_the_store(command: Command) -> None:
    command("submit", "--queue", "a", "--", "true")
    command("pause", "b")

    found = shown(command("metrics").stdout)

    assert 0 == found["dispatcher_up",]
    assert (1, 0) == tuple(found["dispatcher_tasks", "a", s] for s in ("ready", "running"))
    assert 1 == found["dispatcher_queue_paused", "b"]
    assert 0 <= found["dispatcher_oldest_ready_seconds", "a"] < 60
    daemons = {metric.name for metric in METRICS if metric.source == "daemon"}
    assert not daemons & {name for name, *_ in found}


def test_a_counter_does_not_fall_when_rows_are_pruned(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(ended_at=1_000)
    before = shown(command("metrics").stdout)

    command("prune", "--older-than", "1h")

    after = shown(command("metrics").stdout)
    stored = ("dispatcher_runs_stored", "failed")
    assert (1, 0) == (before[stored], after[stored])  # so this one is not a counter
    world = World().start()
    task = world.submit()
    world.settle_down()
    world.gone(task)
    with world.store.transaction() as now:
        world.store.prune(before=StoreTime(now + 1), limit=10)
    found = shown(exposition(status_of(world), {}))
    assert 1 == found["dispatcher_runs_total", "succeeded"]
    assert not [name for name, *_ in found if name == "dispatcher_tasks"]


def test_a_file_is_written_whole_and_readable_or_not_at_all(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "dispatcher.prom"

    assert "" == command("metrics", "--textfile", file).stdout

    assert 0 == shown(file.read_text())["dispatcher_up",]
    assert 0o644 == file.stat().st_mode & 0o777
    assert [file] == list(tmp_path.glob("*prom*"))
    wrong = command("metrics", "--textfile", tmp_path / "no" / "x.prom", exits=1).stderr
    assert f"cannot write {tmp_path}/no/x.prom: No such file or directory; its directory" in wrong
