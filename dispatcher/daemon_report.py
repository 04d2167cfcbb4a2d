"""What a running daemon reports about itself: the answer to `status` on its control socket.

A client may be newer than the daemon: a field that an older daemon does not send has a default.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec


class ExecutorState(enum.StrEnum):
    """The executor as its daemon sees it."""

    CONNECTED = "connected"
    WAITING = "waiting"
    """No executor has greeted the daemon."""
    SILENT = "silent"
    """It holds the connection and does not answer."""
    INCOMPATIBLE = "incompatible"
    """Its version of the protocol differs."""
    UNKNOWN = "unknown"
    """A state that only a newer daemon knows."""

    @classmethod
    def _missing_(cls, _: object) -> ExecutorState:
        return cls.UNKNOWN


_PHRASES = {
    ExecutorState.WAITING: "waits for the executor",
    ExecutorState.SILENT: "the executor does not answer",
    ExecutorState.INCOMPATIBLE: "the executor speaks another version",
}


class HistogramReport(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds, counted by interval."""

    bounds: tuple[float, ...]
    """Upper bounds of the intervals; one more interval follows the last."""
    counts: tuple[int, ...]
    """Durations in each interval."""
    sum: float


class FiguresReport(msgspec.Struct, frozen=True, kw_only=True):
    """Counters and histograms since the daemon started."""

    claims: int
    settled: dict[str, int]
    """Settled runs by outcome."""
    ticks: HistogramReport
    kills: HistogramReport


class IncompatibleExecutor(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    version: int
    wanted: int


class StrandedReport(msgspec.Struct, frozen=True, kw_only=True):
    """An open run that no executor knows, of which something may still live on this host."""

    task_id: int
    fence: int
    why: str
    """What lives, or may live, of the run."""
    is_ours: bool
    """Whether the run belongs to this node, whose executor ends what it finds of it."""

    def describe(self, what: str, *, awaited: bool) -> str:
        """Return what lives of the run and who ends it.

        `what` names the run; `awaited`: its executor must be back first.
        """
        if not self.is_ours:
            return f"no executor ends {what}: {self.why}"
        when = " once it is back" if awaited else ""
        return f"the executor does not know {what}, and ends what lives of it{when}: {self.why}"


class LockReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of this node that another session has locked, so that its daemon leaves them out."""

    holder: str | None
    """Who that is; None: that is not known."""
    tasks: tuple[int, ...]
    """The tasks of open runs of which nothing is recorded; not all if those are very many."""
    count: int
    """How many they are."""
    node_row: bool
    """Whether the node's row is locked, so that nothing is claimed."""

    def describe(self) -> str:
        """Return who has locked what, and what waits for it."""
        who = f"another session ({self.holder})" if self.holder else "another session"
        rows, waits = [], []
        if self.count:
            some = ", ".join(map(str, self.tasks)) + (", …" * (self.count > len(self.tasks)))
            rows.append(
                f"the rows of task {some}" if self.count == 1 else f"the rows of tasks {some}"
            )
            waits.append(
                "nothing of it is recorded" if self.count == 1 else "nothing of them is recorded"
            )
        if self.node_row:
            rows.append("this node's row")
            waits.append("nothing is claimed")
        return f"{who} holds a lock on {' and '.join(rows)}; {' and '.join(waits)} until it ends"


class OutputReport(msgspec.Struct, frozen=True, kw_only=True):
    """The output directory. Sizes in bytes; None while unknown."""

    bytes: int | None
    budget_bytes: int | None
    free_bytes: int | None
    floor_bytes: int | None
    trouble: tuple[str, ...]


class DaemonReport(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon's state. Ages in seconds; None for what has not happened yet."""

    ok: bool = True
    pid: int
    node: str
    hostname: str
    release: str = ""
    slots: int
    busy: int
    """Slots with a run in them."""
    unkillable: int = 0
    """Runs of which something lives although SIGKILL was sent; they keep their slots."""
    unkillable_because: dict[int, str] = {}
    """The reason of each, by task id."""
    unsignalled_because: dict[int, str] = {}
    """Processes that the executor may not signal, by task id."""
    unknown_runs: int = 0
    """Runs alive in the executor that the store does not know; they are ended first."""
    stranded: tuple[StrandedReport, ...] = ()
    workers_shut_out: str | None = None
    """Why workers cannot reach their sockets; None: they can."""
    claims_postponed: str | None = None
    """Why no node claims anything after a failover of the store's server; None: they do."""
    rows_locked: LockReport | None = None
    """Rows that another session has locked; None: none are, or only for a moment."""
    paused: str | None = None
    """Why the node claims nothing; None: it claims."""
    paused_for_s: float = 0.0
    """Seconds until the pause ends; 0: until a worker has started."""
    bears: int | None = None
    """How many runs this host was found to bear at once; None: no limit is known."""
    bears_because: str | None = None
    """The error of the last start that failed, while such a limit is known."""
    reap_age_s: float | None = None
    claim_age_s: float | None = None
    start_age_s: float | None = None
    uptime_s: float | None = None
    figures: FiguresReport | None = None
    executor: ExecutorState
    executor_pid: int | None = None
    executor_release: str | None = None
    executor_marks: bool | None = None
    """Whether the processes of its runs carry the mark of their run."""
    executor_answer_age_s: float | None = None
    executor_error: str | None = None
    """The last error of an executor that exited."""
    executor_incompatible: IncompatibleExecutor | None = None
    full_queues: dict[str, int] = {}
    """The concurrency limit of each queue that has reached it here."""
    stopping: str | None = None
    """How the daemon stops; None: it does not."""
    ends_runs_in_s: float | None = None
    """Seconds until a draining daemon ends the runs that are left; None: it does not drain."""
    config_file: str | None = ""
    """The file of the configuration in force; None: built-in defaults, "": an older daemon."""
    config_mistakes: tuple[str, ...] = ()
    """The mistakes of profiles, which alone cannot be used."""
    managed: bool = False
    """Whether a service manager started the daemon."""
    unregistered: str | None = None
    """Why the node's row in a shared store is not this daemon's yet; None: it is."""
    store_silent_for_s: float | None = None
    """Seconds since the store last answered; None: it answers."""
    store_locked: bool = False
    """Whether it does not because another session holds a lock for which every tick waits."""
    postponed: dict[str, str] = {}
    """Deferred work that the store refuses, with the error."""
    tick_age_s: float | None = None
    output: OutputReport | None = None
    metrics_unwritten: str | None = None
    """Why the last file of figures was not written; None: it was, or the file names none."""
    listener_failure: str | None = None
    """Why the listener for other nodes does not run; None: it runs, or is not configured."""
    bell_failure: str | None = None
    """Why the daemon finds changes by others only by its poll; None: it does not."""

    @property
    def is_full(self) -> bool:
        return self.busy >= self.slots

    @property
    def is_connected(self) -> bool:
        """Whether the executor answers; nothing starts or ends otherwise."""
        return self.executor is ExecutorState.CONNECTED

    def executor_faults(self) -> Iterator[tuple[str, str]]:
        """Yield which obstacle the executor is, if it is one, and as text."""
        nothing = "nothing starts or ends"
        if (other := self.executor_incompatible) is not None:
            text = (
                f"the executor, pid {other.pid}, speaks version {other.version},"
                f" {other.wanted} is wanted; {nothing} until you restart it, when nothing runs"
            )
            yield "executor_incompatible", text
        elif self.executor is ExecutorState.SILENT:
            yield "executor_silent", f"the executor is silent; {nothing} until it answers"
        elif not self.is_connected:
            text = "the executor is missing, and the daemon waits for it"
            if (last_error := self.executor_error) is not None:
                text = f"the executor exits: {last_error}"
            yield "executor_missing", f"{text}; {nothing} until it runs"

    def in_a_line(self) -> str:
        """Return a summary of the state, worst first."""
        is_locked = self.store_locked or self.rows_locked is not None
        is_silent = self.store_silent_for_s is not None and not self.store_locked
        facts = [
            "the store does not answer" if is_silent else "",
            _PHRASES.get(self.executor, ""),
            f"{self.unkillable} runs cannot be killed" if self.unkillable else "",
            "another session holds a lock" if is_locked else "",
            "claims wait after a failover" if self.claims_postponed else "",
            f"paused: {self.paused}" if self.paused else "",
            f"stopping ({self.stopping})" if self.stopping else "",
            f"{self.busy} of {self.slots} slots busy",
        ]
        return "; ".join(filter(None, facts))
