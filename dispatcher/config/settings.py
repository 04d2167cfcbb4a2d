"""The configuration file: its sections, keys and defaults.

Field names are the file's keys; durations are milliseconds here (`ttl_ms`) and texts with a unit
there (`ttl = "60s"`). The text under a key is its documentation (`config.reference`); its example
completes the message about a mistake.
"""

from collections.abc import Container, Iterable, Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dispatcher.config import limits
from dispatcher.config.limit_settings import Limit
from dispatcher.config.peer_settings import PeersSection
from dispatcher.config.report_settings import LogsSection, MetricsSection, OutputSection
from dispatcher.config.section import (
    DERIVED,
    LEAST_ABSENCE,
    LEAST_INTERVAL,
    MOST,
    NAME,
    Minute,
    QuarterHour,
    Second,
    Section,
    TenSeconds,
    at_least,
    duration_or_never,
    label_mistakes,
)
from dispatcher.config.task_settings import (
    Defaults,
    HooksSection,
    Profile,
    Queue,
    TaskDefaults,
    unknown_profile,
)
from dispatcher.execution import BUILT_IN, KILL_GRACE_MS
from dispatcher.quantities.durations import Milliseconds


class NodeSection(Section, frozen=True):
    """This host: where its files are, and how much it runs at once."""

    state_dir: Annotated[str, Meta(examples=["/var/lib/dispatcher"])] | None = None
    """Where this node keeps its identity, its lock, the runs' output and, by default, the database.
    Left out: the first of `$STATE_DIRECTORY` (systemd sets it), `$XDG_STATE_HOME/dispatcher` and
    `~/.local/state/dispatcher`. Inside a task `$DISPATCHER_STATE_DIR` takes precedence."""
    runtime_dir: Annotated[str, Meta(examples=["/run/dispatcher"])] | None = None
    """Where the sockets are: a short path. Left out: the first of `$RUNTIME_DIRECTORY` (systemd
    sets it), `$XDG_RUNTIME_DIR/dispatcher-<hash of state_dir>` and `run` in the state directory.
    Inside a task `$DISPATCHER_RUNTIME_DIR` takes precedence."""
    slots: Annotated[int, Meta(ge=1, le=10_000, examples=[4])] | None = None
    """How many workers run here at once. Left out: one for each CPU that the daemon may use."""
    labels: Annotated[dict[str, str], Meta(examples=[{"gpu": "a100"}])] | None = None
    """What this host has that not every one of the store has. A task that was submitted with
    `--require gpu=a100` runs only where `labels` has that name with that value."""

    def _mistakes(self) -> Iterator[str]:
        yield from label_mistakes("labels", self.labels or {})


class StoreSection(Section, frozen=True):
    """Where tasks live."""

    url: Annotated[str, Meta(examples=["sqlite:///var/lib/dispatcher/tasks.db"])] | None = None
    """The database: a file on a local disk, or `postgresql://USER@HOST/DATABASE` without a
    password. Left out: `tasks.db` in the state directory. Inside a task `$DISPATCHER_STORE_URL`
    takes precedence."""
    schema: Annotated[str, Meta(examples=["dispatcher"])] = "dispatcher"
    """The schema in a PostgreSQL database; several dispatchers may each have one."""


class DaemonSection(Section, frozen=True):
    """The daemon's loop, and what stopping it does."""

    drain_timeout_ms: Minute = Milliseconds(60_000)
    """How long a draining daemon waits for its workers before it ends them."""
    on_stop: Annotated[Literal["drain", "leave"], Meta(examples=["leave"])] | None = None
    """What SIGTERM does: `drain` waits for the workers, `leave` lets them run on. Left out: drain
    with an embedded executor, leave with an external one."""
    poll_ms: Second = Milliseconds(1_000)
    """How often the daemon looks at the store unless woken; less often while nothing runs."""

    def _mistakes(self) -> Iterator[str]:
        yield from at_least(LEAST_INTERVAL, self, "poll_ms")


class ExecutorSection(Section, frozen=True):
    """Who starts the executor, and how long runs may go on with no daemon."""

    mode: Annotated[Literal["embedded", "external"], Meta(examples=["external"])] = "embedded"
    """Whether the daemon starts an executor if none runs (`embedded`), or waits for one that has a
    unit of its own (`external`)."""
    absence_limit: Annotated[str, Meta(examples=["5m"])] | None = None
    """How long runs may go on while no daemon confirms their claims; then the executor ends them,
    and other nodes that share the store run their tasks. A duration, or `never`: then no other node
    ever does. Left out: 5 min if the store is on a server, otherwise `never`."""

    def _mistakes(self) -> Iterator[str]:
        try:
            limit = self.absence_limit_ms
        except ValueError as error:
            yield f'absence_limit: {error}, or "never"'
            return
        if limit is not None and limit < LEAST_ABSENCE:
            yield (
                f"absence_limit: {limit} is less than {LEAST_ABSENCE}, which a healthy daemon may"
                ' need; raise it, or write "never" for no limit'
            )

    @property
    def absence_limit_ms(self) -> Milliseconds | None:
        """How long runs may go on without a daemon, if it is given; None: for ever."""
        return duration_or_never(self.absence_limit or "never")


class LeasesSection(Section, frozen=True):
    """How long a claim lasts without a sign of life, and how a run is ended. No lease is shorter
    than 200 ms: each renewal is a transaction.
    """

    ttl_ms: Minute = Milliseconds(60_000)
    """The lease of a task with liveness `process`, which the daemon renews while it lives."""
    worker_ttl_ms: QuarterHour = Milliseconds(900_000)
    """The lease of a task with liveness `worker`: how long its worker may be silent."""
    reap_interval_ms: Annotated[Milliseconds, Meta(examples=["5s"])] = DERIVED
    """How often the daemon looks for abandoned claims. Left out: 5 s, or half of the shortest lease
    if that is less."""
    takeover_margin_ms: Annotated[Milliseconds, Meta(examples=["15s"])] = Milliseconds(15_000)
    """How long other nodes wait to take over runs that a silent node must have ended. At least 3 s
    and a thousandth of `absence_limit`, for the clocks, if the store is on a server."""
    kill_grace_ms: TenSeconds = Milliseconds(KILL_GRACE_MS)
    """Time between the kill signal and SIGKILL, for tasks that are submitted without their own: a
    change of it changes no submitted task."""
    exit_grace_ms: TenSeconds = Milliseconds(10_000)
    """How long a worker may take to exit after it declared its outcome."""
    leftover_grace_ms: Annotated[Milliseconds, Meta(examples=["2s"])] = Milliseconds(2_000)
    """How long a run's processes may outlive its first one."""

    def __post_init__(self) -> None:
        """Derive the reaper's interval if none is given."""
        if self.reap_interval_ms is DERIVED:
            derived = Milliseconds(min(5_000, self._longest_reap_interval()[0]))
            msgspec.structs.force_setattr(self, "reap_interval_ms", derived)
        super().__post_init__()

    def _mistakes(self) -> Iterator[str]:
        yield from at_least(limits.LEAST_LEASE, self, "ttl_ms", "worker_ttl_ms")
        yield from at_least(LEAST_INTERVAL, self, "reap_interval_ms")
        yield from limits.too_long(self, "kill_grace")
        most, name, shortest = self._longest_reap_interval()
        if self.reap_interval_ms > most and shortest > 0:
            yield (
                f"reap_interval: {self.reap_interval_ms} is more than half of"
                f" {name} ({shortest}); lower it to at most {most}, or leave it out"
            )

    def _longest_reap_interval(self) -> tuple[Milliseconds, str, Milliseconds]:
        """Return it, with the key and length of the lease that bounds it."""
        shortest, name = min((self.ttl_ms, "ttl"), (self.worker_ttl_ms, "worker_ttl"))
        return Milliseconds(max(limits.LEAST_LEASE, shortest) // 2), name, shortest


class RetrySection(Section, frozen=True):
    """How often, and after which delay, a task runs again, unless its submit, profile or queue
    decides. All of it is fixed at the submit: a change of this file, or that of another host,
    changes no submitted task.
    """

    max_attempts: Annotated[int, Meta(ge=1, le=MOST, examples=[3])] = 3
    """Attempts after which a task is failed."""
    max_deferrals: Annotated[int, Meta(ge=0, le=MOST, examples=[100])] = BUILT_IN.max_deferrals
    """Deferrals (exit code 75) after which a task is held."""
    max_orphans: Annotated[int, Meta(ge=0, le=MOST, examples=[5])] = BUILT_IN.max_orphans
    """Runs lost by the dispatcher, as in a crash, after which a task is held."""
    backoff_min_ms: TenSeconds = DERIVED
    """The back-off after a first failure; it doubles with each failure, and half of it is random.
    Left out: 10 s, or `backoff_max` if that is less."""
    backoff_max_ms: QuarterHour = DERIVED
    """The longest back-off. Left out: 15 min, or `backoff_min` if that is more."""
    cooldown_ms: Minute = Milliseconds(BUILT_IN.cooldown_ms)
    """The delay after a deferral that names none."""

    def __post_init__(self) -> None:
        """Derive the bound that was left out from the other."""
        least, most = self.backoff_min_ms, self.backoff_max_ms
        if most is DERIVED:
            most = Milliseconds(max(BUILT_IN.backoff_max_ms, least))
        if least is DERIVED:
            least = Milliseconds(min(BUILT_IN.backoff_min_ms, most))
        msgspec.structs.force_setattr(self, "backoff_min_ms", least)
        msgspec.structs.force_setattr(self, "backoff_max_ms", most)
        super().__post_init__()

    def _mistakes(self) -> Iterator[str]:
        yield from limits.too_long(self, *limits.DELAYS)
        if mistake := limits.backoff_mistake(self.backoff_min_ms, self.backoff_max_ms):
            yield mistake


class ScheduleTable(TaskDefaults, frozen=True, kw_only=True):
    """Tasks that are submitted at the times of a cron line, each time once, whichever daemons have
    it. Give all files of a store the same ones. What it gives its tasks is as for a submit.
    """

    cron: Annotated[str, Meta(examples=["0 3 * * *"])]
    """Five fields: minute, hour, day of the month, month, day of the week. As Debian's cron: lists,
    ranges, steps, names (`MON`, `JAN`), `L` for the last day, `5L` for the last Friday, `MON#1` for
    the first Monday."""
    time_zone: Annotated[str, Meta(examples=["Europe/Berlin"])] = "UTC"
    """The IANA name of the zone that the cron line means."""
    profile: Annotated[str, Meta(pattern=NAME, examples=["report"])] | None = None
    """The profile of its tasks. Either this or `command`."""
    command: Annotated[tuple[str, ...], Meta(min_length=1, examples=[["sync", "--all"]])] | None = (
        None
    )
    """The program and its arguments, without a shell. Its environment is clean."""
    payload: Annotated[str, Meta(examples=['{"level": 9}'])] | None = None
    """JSON, for the worker and the profile's command."""
    queue: Annotated[str, Meta(pattern=NAME, examples=["nightly"])] | None = None
    """The queue of its tasks. Left out: the profile's, or the one of `[defaults]`."""
    cwd: Annotated[str, Meta(examples=["/srv/images"])] | None = None
    """The working directory. Left out: the profile's, or `/`."""
    env: Annotated[dict[str, str], Meta(examples=[{"LEVEL": "3"}])] | None = None
    """Variables for the command; they take precedence over the profile's. `SCHEDULED_AT` is the
    time for which a task is."""
    labels: Annotated[dict[str, str], Meta(examples=[{"team": "b"}])] | None = None
    """Labels of its tasks. Left out, `name` is the name of the schedule."""
    catch_up: Annotated[Literal["none", "one", "all"], Meta(examples=["all"])] = "one"
    """What becomes of times at which no daemon was there for a minute: no task, one task for the
    last of them unless another time is due by now, or a task each, of the last 1000 at most."""
    overlap: Annotated[Literal["skip", "queue", "cancel_old"], Meta(examples=["queue"])] = "skip"
    """What happens at a time at which an earlier task of the schedule has not ended: no new task,
    a new one that waits for its end, or a new one after the old ones are cancelled and have ended.
    A held task keeps no other from being submitted."""

    def _mistakes(self) -> Iterator[str]:
        from dispatcher import cron  # noqa: PLC0415 - a library that few configurations need

        yield from super()._mistakes()
        for key, check, given in (
            ("cron", cron.check, self.cron),
            ("time_zone", cron.check_zone, self.time_zone),
        ):
            try:
                check(given)
            except ValueError as error:
                yield f"{key}: {error}"
        if self.profile is None and self.command is None:
            yield 'command: is missing; write a command or a profile, as in: profile = "report"'
        if self.profile is not None and self.command is not None:
            yield "command: its profile brings one; leave this or the profile out"
        yield from label_mistakes("labels", self.labels or {})

    def mistakes(self, name: str, profiles: Container[str]) -> Iterator[str]:
        """Yield the mistake of a schedule of this name whose profile is none of these."""
        if self.profile is not None and self.profile not in profiles:
            yield f"schedules.{name}.profile: {unknown_profile(self.profile)}"


class Settings(Section, frozen=True):
    """The whole file."""

    node: NodeSection = NodeSection()
    store: StoreSection = StoreSection()
    daemon: DaemonSection = DaemonSection()
    executor: ExecutorSection = ExecutorSection()
    leases: LeasesSection = LeasesSection()
    retry: RetrySection = RetrySection()
    output: OutputSection = OutputSection()
    defaults: Defaults = Defaults()
    queues: dict[Annotated[str, Meta(pattern=NAME)], Queue] = msgspec.field(default_factory=dict)
    limits: dict[Annotated[str, Meta(pattern=NAME)], Limit] = msgspec.field(default_factory=dict)
    profiles: dict[Annotated[str, Meta(pattern=NAME)], Profile] = msgspec.field(
        default_factory=dict
    )
    hooks: HooksSection = HooksSection()
    schedules: dict[Annotated[str, Meta(pattern=NAME)], ScheduleTable] = msgspec.field(
        default_factory=dict
    )
    logs: LogsSection = LogsSection()
    metrics: MetricsSection = MetricsSection()
    peers: PeersSection = PeersSection()

    def unknown_profiles(self, mistaken: Iterable[str]) -> Iterator[str]:
        """Yield the mistakes of hooks and schedules that name a profile which is not there."""
        known = {*self.profiles, *mistaken}
        yield from self.hooks.mistakes(known)
        for name, schedule in self.schedules.items():
            yield from schedule.mistakes(name, known)
