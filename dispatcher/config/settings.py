"""What may stand in the configuration file: its sections, keys, limits and defaults.

Field names are the file's keys; durations are milliseconds here (`ttl_ms`) and texts with a unit
there (`ttl = "60s"`). The text under a key is what `config.reference` tells users of it; its
example is what mistakes are answered with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from dispatcher.config import limits, template
from dispatcher.quantities import durations, signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.quantities.sizes import Bytes

if TYPE_CHECKING:
    from dispatcher.policy import RetryPolicy

#: Stands for "follows from other keys" until `__post_init__` has seen those.
_DERIVED = Milliseconds(-1)

#: A name of a queue or label: it can stand in a table, a file and a command line.
NAME = r"\A[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,99}\Z"

_MOST = 2**31 - 1

#: The shortest interval between two looks at the store: at 20 ms an idle loop uses about 3 % of a
#: CPU.
LEAST_INTERVAL = Milliseconds(20)

#: The shortest absence that may end runs: a daemon confirms itself four times in it, and its store
#: may be slow.
LEAST_ABSENCE = Milliseconds(1_000)

#: The shortest interval between two writes of the metrics' file.
LEAST_METRICS_INTERVAL = Milliseconds(1_000)

#: The smallest budget of a run's output: punching works in blocks.
LEAST_BUDGET = Bytes(64 << 10)

#: The shortest retention: whoever waits for a task looks twice a second.
LEAST_RETENTION = Milliseconds(1_000)


def _above_zero(section: Section, *fields: str) -> Iterator[str]:
    for field in fields:
        if getattr(section, field) <= 0:
            yield f"{_key(field)}: must be above 0"


def _at_least(least: int, section: Section, *fields: str) -> Iterator[str]:
    for field in fields:
        if (given := getattr(section, field)) is not None and given < least:
            yield f"{_key(field)}: {given} is less than {least}; raise it"


def _key(field: str) -> str:
    return field.removesuffix("_ms")


Second = Annotated[Milliseconds, Meta(examples=["1s"])]
TenSeconds = Annotated[Milliseconds, Meta(examples=["10s"])]
Minute = Annotated[Milliseconds, Meta(examples=["60s"])]
QuarterHour = Annotated[Milliseconds, Meta(examples=["15m"])]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename=_key):
    """A table of the file. What is impossible raises ValueError, a line for each mistake."""

    def __post_init__(self) -> None:
        """Refuse what is impossible."""
        if told := list(self.mistakes()):
            raise ValueError("\n".join(told))

    def mistakes(self) -> Iterator[str]:
        """Yield what is impossible: its key, a colon, what is wrong and the remedy."""
        yield from ()


class NodeSection(Section, frozen=True):
    """This host's part: where its files are and how much it runs at once."""

    state_dir: Annotated[str, Meta(examples=["/var/lib/dispatcher"])] | None = None
    """Where this node keeps its identity, its lock, the runs' output and, by default, the database.
    Left out: `$STATE_DIRECTORY` as systemd sets it, else `dispatcher` under `$XDG_STATE_HOME`, else
    `~/.local/state/dispatcher`. Inside a task `$DISPATCHER_STATE_DIR` goes before."""
    runtime_dir: Annotated[str, Meta(examples=["/run/dispatcher"])] | None = None
    """Where the sockets are: a short path. Left out: `$RUNTIME_DIRECTORY` as systemd sets it, else
    `dispatcher-<hash of state_dir>` under `$XDG_RUNTIME_DIR`, else `run` in the state directory.
    Inside a task `$DISPATCHER_RUNTIME_DIR` goes before."""
    slots: Annotated[int, Meta(ge=1, le=10_000, examples=[4])] | None = None
    """How many workers run here at once. Left out: one for each CPU that the daemon may use."""


class StoreSection(Section, frozen=True):
    """Where tasks live."""

    url: Annotated[str, Meta(examples=["sqlite:///var/lib/dispatcher/tasks.db"])] | None = None
    """The database, on a local disk. Left out: `tasks.db` in the state directory. Inside a task
    `$DISPATCHER_STORE_URL` goes before."""


class DaemonSection(Section, frozen=True):
    """The loop, and what a stop does."""

    drain_timeout_ms: Minute = Milliseconds(60_000)
    """How long a daemon that drains waits for its workers before it ends them."""
    on_stop: Annotated[Literal["drain", "leave"], Meta(examples=["leave"])] | None = None
    """What SIGTERM does: `drain` waits for the workers, `leave` lets them run on. Left out: drain
    with an embedded executor, leave with an external one."""
    poll_ms: Second = Milliseconds(1_000)
    """How often the store is looked at although nobody woke the daemon."""

    def mistakes(self) -> Iterator[str]:
        """Refuse a loop without a pause."""
        yield from _at_least(LEAST_INTERVAL, self, "poll_ms")


class ExecutorSection(Section, frozen=True):
    """Who starts the executor, and how long runs may go on with no daemon."""

    mode: Annotated[Literal["embedded", "external"], Meta(examples=["external"])] = "embedded"
    """Whether the daemon starts an executor where none runs (`embedded`), or waits for the one that
    has a unit of its own (`external`)."""
    absence_limit: Annotated[str, Meta(examples=["5m"])] = "never"
    """How long runs may go on with no daemon able to confirm their claims; after that the executor
    ends them. A duration, or `never`."""

    def mistakes(self) -> Iterator[str]:
        """Refuse a limit that is no duration."""
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
        """How long runs may go on with no daemon; None: for ever."""
        return None if self.absence_limit == "never" else durations.parse(self.absence_limit)


class LeasesSection(Section, frozen=True):
    """How long a claim lives without a sign of life, and how a run is ended. No lease is shorter
    than 200 ms: each renewal is a transaction.
    """

    ttl_ms: Minute = Milliseconds(60_000)
    """The lease of a task with liveness `process`, which the daemon renews while it lives."""
    worker_ttl_ms: QuarterHour = Milliseconds(900_000)
    """The lease of a task with liveness `worker`: so long may it be silent."""
    reap_interval_ms: Annotated[Milliseconds, Meta(examples=["5s"])] = _DERIVED
    """How often abandoned claims are looked for. Left out: 5 s, or half of the shortest lease where
    that is less."""
    takeover_margin_ms: Annotated[Milliseconds, Meta(examples=["15s"])] = Milliseconds(15_000)
    """How long after a silent node must have ended its runs others wait before they take them."""
    kill_grace_ms: TenSeconds = Milliseconds(10_000)
    """Time between the kill signal and SIGKILL, for tasks that do not say their own."""
    exit_grace_ms: TenSeconds = Milliseconds(10_000)
    """How long a worker that declared its outcome may take to exit."""
    leftover_grace_ms: Annotated[Milliseconds, Meta(examples=["2s"])] = Milliseconds(2_000)
    """How long processes may outlive the one that was started."""

    def __post_init__(self) -> None:
        """Derive the reaper's interval where none is given."""
        if self.reap_interval_ms is _DERIVED:
            derived = Milliseconds(min(5_000, self._most()[0]))
            msgspec.structs.force_setattr(self, "reap_interval_ms", derived)
        super().__post_init__()

    def mistakes(self) -> Iterator[str]:
        """Refuse a reaper that would find an expiry too late."""
        yield from _at_least(limits.LEAST_LEASE, self, "ttl_ms", "worker_ttl_ms")
        yield from _at_least(LEAST_INTERVAL, self, "reap_interval_ms")
        most, name, shortest = self._most()
        if self.reap_interval_ms > most and shortest > 0:
            yield (
                f"reap_interval: {self.reap_interval_ms} is more than half of"
                f" {name} ({shortest}); lower it to at most {most}, or leave it out"
            )

    def _most(self) -> tuple[Milliseconds, str, Milliseconds]:
        """Return the longest interval of the reaper, and because of which lease."""
        shortest, name = min((self.ttl_ms, "ttl"), (self.worker_ttl_ms, "worker_ttl"))
        return Milliseconds(max(limits.LEAST_LEASE, shortest) // 2), name, shortest


class RetrySection(Section, frozen=True):
    """How often, and after which delay, a task runs again."""

    max_attempts: Annotated[int, Meta(ge=1, le=_MOST, examples=[3])] = 3
    """Attempts after which a task is failed."""
    max_deferrals: Annotated[int, Meta(ge=0, le=_MOST, examples=[100])] = 100
    """Deferrals (exit code 75) after which a task is held."""
    max_orphans: Annotated[int, Meta(ge=0, le=_MOST, examples=[5])] = 5
    """Runs lost by us, as at a crash, after which a task is held."""
    backoff_min_ms: TenSeconds = _DERIVED
    """The back-off after a first failure; it doubles with each one, and half of it is random. Left
    out: 10 s, or `backoff_max` where that is less."""
    backoff_max_ms: QuarterHour = _DERIVED
    """The longest back-off. Left out: 15 min, or `backoff_min` where that is more."""
    cooldown_ms: Minute = Milliseconds(60_000)
    """The delay after a deferral that names none."""

    def __post_init__(self) -> None:
        """Let the bound that was left out follow the other."""
        least, most = self.backoff_min_ms, self.backoff_max_ms
        if most is _DERIVED:
            most = Milliseconds(max(900_000, least))
        if least is _DERIVED:
            least = Milliseconds(min(10_000, most))
        msgspec.structs.force_setattr(self, "backoff_min_ms", least)
        msgspec.structs.force_setattr(self, "backoff_max_ms", most)
        super().__post_init__()

    def policy(self) -> RetryPolicy:
        """Return what the tasks of a store are settled by."""
        from dispatcher.policy import RetryPolicy  # noqa: PLC0415 - no submit needs it

        return RetryPolicy(
            max_deferrals=self.max_deferrals,
            max_orphans=self.max_orphans,
            backoff_min_ms=self.backoff_min_ms,
            backoff_max_ms=self.backoff_max_ms,
            cooldown_ms=self.cooldown_ms,
        )

    def mistakes(self) -> Iterator[str]:
        """Refuse bounds that cross."""
        least, most = self.backoff_min_ms, self.backoff_max_ms
        if least > most:
            yield f"backoff_min: {least} is more than backoff_max ({most}); lower it or raise that"


class OutputSection(Section, frozen=True):
    """How much of the runs' output is kept, and how long."""

    retention: Annotated[str, Meta(examples=["30d"])] = "30d"
    """How long finished tasks, their runs and their output are kept; then the daemon deletes them.
    A duration, or `never`."""
    run_budget: Annotated[Bytes, Meta(examples=["64MiB"])] = Bytes(64 << 20)
    """How much of one run's output is kept: its end. Of a run that writes more, the oldest output
    is dropped while it runs; until the next look, an eighth of a second later, it may be over."""
    total_budget: Annotated[Bytes, Meta(examples=["10GiB"])] = Bytes(10 << 30)
    """How much disk all output on this node may take. Beyond it the oldest output of runs that are
    over is removed, whole; what runs now is not touched."""
    free_floor: Annotated[Bytes, Meta(examples=["512MiB"])] = Bytes(512 << 20)
    """How much of the disk stays free: below it output is removed in the same way, whoever filled
    the disk. The default is room for what eight runs may write between two looks, and for the
    database. `0KiB`: no floor."""

    def mistakes(self) -> Iterator[str]:
        """Refuse budgets that hold less than they must, and a retention that is no duration."""
        yield from _at_least(LEAST_BUDGET, self, "run_budget")
        if self.total_budget < self.run_budget:
            yield (
                f"total_budget: {self.total_budget} is less than run_budget ({self.run_budget});"
                " raise it or lower that"
            )
        try:
            retention = self.retention_ms
        except ValueError as error:
            yield f'retention: {error}, or "never"'
            return
        if retention is not None and retention < LEAST_RETENTION:
            yield (
                f"retention: {retention} is less than {LEAST_RETENTION}, so that nobody could see"
                ' how a task ended; raise it, or write "never"'
            )

    @property
    def retention_ms(self) -> Milliseconds | None:
        """How long what is finished is kept; None: for ever."""
        return None if self.retention == "never" else durations.parse(self.retention)


class Defaults(Section, frozen=True):
    """What a task gets that its submitter leaves out."""

    queue: Annotated[str, Meta(pattern=NAME, examples=["default"])] = "default"
    """The queue of a task that names none."""
    priority: Annotated[int, Meta(ge=-(2**31), le=_MOST, examples=[0])] = 0
    """The priority of a task that names none; higher ones are claimed first."""
    allow_commands: Annotated[bool, Meta(examples=[False])] = True
    """Whether a submit may name its own command, and not only a profile. It guards against
    mistakes: whoever may write the database may run anything as the daemon's user."""


class TaskDefaults(Section, frozen=True):
    """What tasks of a queue get that their submitters leave out."""

    priority: Annotated[int, Meta(ge=-(2**31), le=_MOST, examples=[10])] | None = None
    """Higher ones are claimed first, within their queue."""
    max_attempts: Annotated[int, Meta(ge=1, le=_MOST, examples=[5])] | None = None
    """Attempts after which a task is failed."""
    liveness: Annotated[Literal["process", "worker"], Meta(examples=["worker"])] | None = None
    """Who renews the lease: the daemon while the process lives, or only the worker's heartbeats."""
    notify: Annotated[bool, Meta(examples=[True])] | None = None
    """Whether its runs get a socket of systemd's notify protocol (`$NOTIFY_SOCKET`) whatever their
    liveness. With liveness `worker` all do."""
    lease_ttl_ms: QuarterHour | None = None
    """The lease. Left out: as `[leases]` says for the task's liveness."""
    run_timeout_ms: Annotated[Milliseconds, Meta(examples=["2h"])] | None = None
    """A run longer than this is ended: `timed_out`."""
    stall_timeout_ms: QuarterHour | None = None
    """So is one without new progress or output for so long: `stalled`."""
    start_timeout_ms: Minute | None = None
    """So is one without a first heartbeat: `lost`. Only for tasks with liveness `worker`."""
    queue_timeout_ms: Annotated[Milliseconds, Meta(examples=["1d"])] | None = None
    """A task fails when it was ready for so long and no slot was free."""
    total_timeout_ms: Annotated[Milliseconds, Meta(examples=["2d"])] | None = None
    """A task fails when it is not done so long after its submit."""
    kill_grace_ms: TenSeconds | None = None
    """Time between the kill signal and SIGKILL."""
    kill_signal: Annotated[str, Meta(examples=["INT"])] | None = None
    """The signal that asks a run to end. Left out: `TERM`."""
    kill_mode: Annotated[Literal["tree", "leader"], Meta(examples=["leader"])] | None = None
    """Who gets it: all processes of the run (`tree`), or only the one that was started (`leader`),
    for a master that ends its own workers. What is left after the grace gets SIGKILL in either
    case. Left out: `tree`."""

    def mistakes(self) -> Iterator[str]:
        """Refuse what no task could have."""
        times = [f"{name}_ms" for name in limits.TIMEOUTS]
        yield from _at_least(limits.LEAST_LEASE, self, "lease_ttl_ms")
        yield from _above_zero(self, *(name for name in times if getattr(self, name) is not None))
        for name in ("lease_ttl_ms", *times, "kill_grace_ms"):
            if (given := getattr(self, name) or 0) > limits.LONGEST:
                yield f"{_key(name)}: {given} is longer than {limits.LONGEST}; lower it"
        if self.kill_signal is not None:
            try:
                signal_names.parse(self.kill_signal)
            except ValueError as error:
                yield f"kill_signal: {error}"
        if told := limits.contradiction(self):
            yield told


class Queue(TaskDefaults, frozen=True):
    """One queue: how many of its tasks run at once, and what they get that their submitters leave
    out. A queue needs no entry here: any name may be submitted to.
    """

    concurrency: Annotated[int, Meta(ge=0, le=10_000, examples=[2])] | None = None
    """How many of its tasks run at once on this node. Left out: as many as there are slots. Claims
    made by hand (`dispatcher claim`) do not count: they take no slot. With `0` this node's daemon
    claims nothing from it: a queue for claims by hand, for which `run --drain` does not wait."""


#: What an exit code may mean, by a profile's word.
Meaning = Literal["succeeded", "failed", "deferred", "held"]


class Profile(TaskDefaults, frozen=True, kw_only=True):
    """A kind of task, submitted by its name: its command, and what its tasks get.

    Everything of it is fixed at submit: a task does not change when this file does.
    """

    command: Annotated[
        tuple[str, ...], Meta(min_length=1, examples=[["convert", "{input}", "-resize", "{size}"]])
    ]
    """The program and its arguments. `{key}` stands for a top-level key of the payload: a text, a
    number, true or false; it stays within its argument, and no shell sees it. Write `{{` for a
    brace."""
    queue: Annotated[str, Meta(pattern=NAME, examples=["images"])] | None = None
    """The queue of its tasks. Left out: as `[defaults]` says."""
    cwd: Annotated[str, Meta(examples=["/srv/images"])] | None = None
    """Where it runs. Left out: where it was submitted."""
    env: Annotated[dict[str, str], Meta(examples=[{"LEVEL": "3"}])] | None = None
    """Variables for the command, before those of the submitter."""
    env_file: Annotated[str, Meta(examples=["/etc/dispatcher/images.env"])] | None = None
    """A file of `NAME=VALUE` lines with secrets for the command, beneath `env`. Values may stand in
    '...' or "..."; # begins a comment. It is read when the daemon starts and at each reload, and a
    task gets what holds when it starts: nothing of it is stored or shown. With `-` before its path
    it may be missing."""
    exit_codes: (
        Annotated[dict[str, Meaning], Meta(examples=[{"3": "deferred", "4": "held"}])] | None
    ) = None
    """What exit codes mean: `succeeded`, `failed`, `deferred` or `held`. Others keep their meaning.
    With `"0" = "failed"` only a worker that declares it succeeds."""
    leftovers: Annotated[Literal["end", "report"], Meta(examples=["report"])] = "end"
    """What becomes of processes that outlive the one that was started by `[leases]
    leftover_grace`: they are ended, or only named (`show`, `worker.leftover_reported`) and left to
    themselves, as a build server that several users share. The next start does not wait for
    those."""
    output: Annotated[Literal["file", "journal"], Meta(examples=["journal"])] = "file"
    """Where its output goes: to its file (`dispatcher logs`), or to systemd's journal as well, a
    record a line (`journalctl DISPATCHER_TASK_ID=42`). The file stays, within `[output]`."""
    lost: Annotated[Literal["attempt", "orphan"], Meta(examples=["orphan"])] = "attempt"
    """What a lost lease costs: one of `max_attempts`, or one of `[retry] max_orphans`."""

    def mistakes(self) -> Iterator[str]:
        """Refuse what no task could have, and a command or code that cannot be."""
        yield from super().mistakes()
        try:
            template.check(self.command)
        except ValueError as error:
            yield f"command: {error}"
        if not self.command[0]:
            yield "command: its program is empty; name one"
        for code in self.exit_codes or ():
            if not (
                code.isascii() and code.isdigit() and int(code) <= 255 and str(int(code)) == code
            ):
                yield f"exit_codes: {code!r} is no exit code; write one from 0 to 255"
        for key, path in (("cwd", self.cwd), ("env_file", (self.env_file or "/").lstrip("-"))):
            if path is not None and not path.startswith("/"):
                yield f"{key}: {path!r} is not absolute; begin it with /"
            elif path is not None and limits.CONTROL.search(path):
                yield f"{key}: {limits.no_directory(path)}"
        for name in self.env or ():
            try:
                limits.check_variable(name)
            except ValueError as error:
                yield f"env: {error}"


class LogsSection(Section, frozen=True):
    """How much the daemon says, and in which form."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(examples=["warning"])] = (
        "info"
    )
    """The least that is said."""
    format: Annotated[Literal["auto", "json", "console", "journal"], Meta(examples=["json"])] = (
        "auto"
    )
    """JSON lines, lines drawn for people, or records of systemd's journal with a field for each key
    (`journalctl DISPATCHER_TASK_ID=42`). `auto` draws on a terminal, sends records where stdout is
    the journal, and writes JSON elsewhere. The executor takes a change up when it starts."""


class MetricsSection(Section, frozen=True):
    """A file of figures for Prometheus' node exporter; `dispatcher metrics` prints the same."""

    textfile: Annotated[str, Meta(examples=["/var/lib/node_exporter/dispatcher.prom"])] | None = (
        None
    )
    """Where to write them, readable for everybody; the node exporter reads files that end with
    `.prom`. Under systemd the unit also needs a `ReadWritePaths=` for its directory, which
    `dispatcher install-service` writes. Left out: no file."""
    interval_ms: Annotated[Milliseconds, Meta(examples=["15s"])] = Milliseconds(15_000)
    """How often it is written, by a process that takes about a quarter of a second to do so."""

    def mistakes(self) -> Iterator[str]:
        """Refuse a file that nobody would read, and writing all the time."""
        if self.textfile is not None and not (
            self.textfile.startswith("/") and self.textfile.endswith(".prom")
        ):
            yield (
                f"textfile: {self.textfile!r} is not an absolute path that ends with .prom, which"
                ' the node exporter needs; write for example "/var/lib/node_exporter/dispatcher'
                '.prom"'
            )
        yield from _at_least(LEAST_METRICS_INTERVAL, self, "interval_ms")


class Settings(Section, frozen=True):
    """The whole file, as it was written."""

    node: NodeSection = NodeSection()
    store: StoreSection = StoreSection()
    daemon: DaemonSection = DaemonSection()
    executor: ExecutorSection = ExecutorSection()
    leases: LeasesSection = LeasesSection()
    retry: RetrySection = RetrySection()
    output: OutputSection = OutputSection()
    defaults: Defaults = Defaults()
    queues: dict[Annotated[str, Meta(pattern=NAME)], Queue] = {}
    profiles: dict[Annotated[str, Meta(pattern=NAME)], Profile] = {}
    logs: LogsSection = LogsSection()
    metrics: MetricsSection = MetricsSection()
