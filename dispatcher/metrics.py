"""The figures of `dispatcher metrics` in the Prometheus text format.

Names follow prometheus.io/docs/practices/naming: base units, `_total` for counters.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from dispatcher.daemon_report import HistogramReport
from dispatcher.model import Leases, Outcome, TaskState
from dispatcher.nodes import NodeState
from dispatcher.obstacles import Obstacle, Standing
from dispatcher.overview import Status
from dispatcher.times import StoreTime


class Metric(NamedTuple):
    """A family of figures; `docs/metrics.md` is generated from these."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    source: Literal["store", "daemon"]
    text: str


METRICS: Sequence[Metric] = (
    Metric("dispatcher_up", "gauge", (), "store",
           "1 if a daemon of this state directory answers; 0 otherwise, without its own figures."),
    Metric("dispatcher_tasks", "gauge", ("queue", "state"), "store",
           "Tasks by queue and state; finished ones until they are pruned."),
    Metric("dispatcher_oldest_ready_seconds", "gauge", ("queue",), "store",
           "How long the longest ready task has been ready."),
    Metric("dispatcher_waiting_tasks", "gauge", ("obstacle",), "store",
           "Tasks that are neither running nor over, by their nearest obstacle, as `dispatcher why`"
           " names it."),
    Metric("dispatcher_coming_tasks", "gauge", (), "store",
           "Tasks of bulk submits that are accepted and not listed yet; if some stay, they are"
           " damaged or the store refuses them."),
    Metric("dispatcher_stuck", "gauge", (), "daemon",
           "1 while ready tasks wait unintended though slots are free; alert on this."),
    Metric("dispatcher_queue_paused", "gauge", ("queue",), "store",
           "1 for each queue that an operator paused."),
    Metric("dispatcher_nodes", "gauge", ("state",), "store",
           "Nodes of the store by state, as `dispatcher nodes` shows it."),
    Metric("dispatcher_node_draining", "gauge", (), "store",
           "1 while an operator lets this node take no more work."),
    Metric("dispatcher_runs_stored", "gauge", ("outcome",), "store",
           "Closed runs in the store by outcome; falls when old tasks are pruned. Compute rates"
           " from dispatcher_runs_total."),
    Metric("dispatcher_lease_age_seconds", "gauge", (), "store",
           "Time since the least recent renewal of a lease, among running tasks."),
    Metric("dispatcher_lease_remaining_seconds", "gauge", (), "store",
           "Time until the next lease of a running task expires; below 0 it is overdue."),
    Metric("dispatcher_heartbeat_age_seconds", "gauge", (), "store",
           "Time since the least recent last heartbeat, among running tasks that sent one."),
    Metric("dispatcher_info", "gauge", ("release", "executor_release"), "daemon",
           "Always 1; the labels are the running releases."),
    Metric("dispatcher_slots", "gauge", (), "daemon",
           "The most runs that this node has at once."),
    Metric("dispatcher_slots_used", "gauge", (), "daemon",
           "Slots with a run in them."),
    Metric("dispatcher_unkillable_runs", "gauge", (), "daemon",
           "Runs of which something lives after SIGKILL; they keep their slots."),
    Metric("dispatcher_executor_connected", "gauge", (), "daemon",
           "1 while the executor answers; nothing starts or ends otherwise."),
    Metric("dispatcher_node_paused", "gauge", (), "daemon",
           "1 while nothing is claimed because this host could not start a process."),
    Metric("dispatcher_store_silent_seconds", "gauge", (), "daemon",
           "Time since the store last answered the daemon; 0 while it answers."),
    Metric("dispatcher_output_bytes", "gauge", (), "daemon",
           "Size on disk of the output directory, at its last scan."),
    Metric("dispatcher_output_free_bytes", "gauge", (), "daemon",
           "Free space on the filesystem of the output directory."),
    Metric("dispatcher_last_tick_timestamp_seconds", "gauge", (), "daemon",
           "When the daemon last committed a tick."),
    Metric("dispatcher_last_reap_timestamp_seconds", "gauge", (), "daemon",
           "When leases were last checked for expiry."),
    Metric("dispatcher_last_claim_timestamp_seconds", "gauge", (), "daemon",
           "When this daemon last claimed a task."),
    Metric("dispatcher_claims_total", "counter", (), "daemon",
           "Tasks claimed since the daemon started."),
    Metric("dispatcher_runs_total", "counter", ("outcome",), "daemon",
           "Runs settled by this daemon since it started. The command that ends a local"
           " claim settles it."),
    Metric("dispatcher_kill_duration_seconds", "histogram", (), "daemon",
           "Time from the decision to end a run until its process tree is gone, with its graces."),
    Metric("dispatcher_tick_duration_seconds", "histogram", (), "daemon",
           "Duration of the loop's turns, with their transactions."),
)  # fmt: skip


class Sample(Struct, frozen=True):
    """One figure of a family, or one histogram."""

    name: str
    value: float | HistogramReport
    labels: tuple[str, ...] = ()


def exposition(status: Status, outcomes: Mapping[Outcome, int]) -> str:
    """Return all known figures in the text format; unknown ones are left out."""
    # Imported here, as it imports an HTTP server.
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*_store_samples(status, outcomes), *_daemon_samples(status)]))
    return generate_latest(registry).decode()


class _Families:
    """A collector that groups samples by name, as the library requires."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def describe(self) -> Sequence[Any]:
        return ()

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        kinds: Mapping[str, Any] = {
            "gauge": GaugeMetricFamily,
            "counter": CounterMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        for metric in METRICS:
            family = kinds[metric.kind](metric.name, metric.text, labels=metric.labels)
            for sample in self._samples:
                if sample.name != metric.name:
                    continue
                if isinstance(sample.value, HistogramReport):
                    family.add_metric(sample.labels, *_buckets(sample.value))
                else:
                    family.add_metric(sample.labels, sample.value)
            if family.samples:
                yield family


def _buckets(report: HistogramReport) -> tuple[list[tuple[str, float]], float]:
    bounds = [*map(str, report.bounds), "+Inf"]
    return list(zip(bounds, accumulate(report.counts), strict=True)), report.sum


def _store_samples(status: Status, outcomes: Mapping[Outcome, int]) -> Iterator[Sample]:
    standing = status.standing
    yield Sample("dispatcher_up", float(standing.daemon == "running"))
    for queue, counts in status.counts.items():
        for state in TaskState:
            yield Sample("dispatcher_tasks", counts.get(state, 0), (queue, state))
    for queue, since in status.oldest_ready().items():
        waited = (standing.now - since) / 1000
        yield Sample("dispatcher_oldest_ready_seconds", waited, (queue,))
    waiting = status.waiting()
    for obstacle in Obstacle:
        yield Sample("dispatcher_waiting_tasks", waiting.get(obstacle, 0), (obstacle,))
    yield Sample("dispatcher_coming_tasks", status.coming)
    for queue in standing.paused:
        yield Sample("dispatcher_queue_paused", 1, (queue,))
    yield from _node_samples(standing)
    for outcome in Outcome:
        yield Sample("dispatcher_runs_stored", outcomes.get(outcome, 0), (outcome,))
    yield from _lease_samples(status.leases, standing.now)


def _node_samples(standing: Standing) -> Iterator[Sample]:
    states = Counter(view.state for view in standing.nodes)
    for state in NodeState:
        yield Sample("dispatcher_nodes", states[state], (state,))
    drains = standing.node is not None and standing.node.draining is not None
    yield Sample("dispatcher_node_draining", float(drains))


def _lease_samples(leases: Leases, now: StoreTime) -> Iterator[Sample]:
    if leases.oldest_renewal is not None and leases.next_expiry is not None:
        age = (now - leases.oldest_renewal) / 1000
        yield Sample("dispatcher_lease_age_seconds", age)
        left = (leases.next_expiry - now) / 1000
        yield Sample("dispatcher_lease_remaining_seconds", left)
    if leases.oldest_heartbeat is not None:
        age = (now - leases.oldest_heartbeat) / 1000
        yield Sample("dispatcher_heartbeat_age_seconds", age)


def _daemon_samples(status: Status) -> Iterator[Sample]:
    standing, report = status.standing, status.standing.report
    if report is None or report.figures is None:  # none runs, or an older one
        return
    releases = (report.release, report.executor_release or "")
    yield Sample("dispatcher_info", 1, releases)
    yield Sample("dispatcher_stuck", float(status.stuck() is not None))
    yield Sample("dispatcher_slots", report.slots)
    yield Sample("dispatcher_slots_used", report.busy)
    yield Sample("dispatcher_unkillable_runs", report.unkillable)
    yield Sample("dispatcher_executor_connected", float(report.is_connected))
    yield Sample("dispatcher_node_paused", float(report.paused is not None))
    yield Sample("dispatcher_store_silent_seconds", report.store_silent_for_s or 0)
    if (output := report.output) is not None:
        if output.bytes is not None:
            yield Sample("dispatcher_output_bytes", output.bytes)
        if output.free_bytes is not None:
            yield Sample("dispatcher_output_free_bytes", output.free_bytes)
    ages = {"tick": report.tick_age_s, "reap": report.reap_age_s, "claim": report.claim_age_s}
    for what, age in ages.items():
        if age is not None:
            moment = round(standing.calendar.date(standing.now) / 1000 - age, 3)
            yield Sample(f"dispatcher_last_{what}_timestamp_seconds", moment)
    yield Sample("dispatcher_claims_total", report.figures.claims)
    for outcome, runs in report.figures.settled.items():
        yield Sample("dispatcher_runs_total", runs, (outcome,))
    yield Sample("dispatcher_kill_duration_seconds", report.figures.kills)
    yield Sample("dispatcher_tick_duration_seconds", report.figures.ticks)
