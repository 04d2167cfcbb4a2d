"""The sections about what is kept of runs, and what the daemon reports: output, log, figures."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from dispatcher.config.section import (
    LEAST_BUDGET,
    LEAST_METRICS_INTERVAL,
    LEAST_RETENTION,
    Section,
    at_least,
    duration_or_never,
)
from dispatcher.quantities.durations import Milliseconds
from dispatcher.quantities.sizes import Bytes


class OutputSection(Section, frozen=True):
    """How much of the runs' output is kept, and how long."""

    retention: Annotated[str, Meta(examples=["30d"])] = "30d"
    """How long finished tasks, their runs and their output are kept; then the daemon deletes them.
    A duration, or `never`."""
    run_budget: Annotated[Bytes, Meta(examples=["64MiB"])] = Bytes(64 << 20)
    """How much of one run's output is kept: its end. The oldest output beyond it is dropped while
    the run writes; between two looks, an eighth of a second apart, a file may be larger."""
    total_budget: Annotated[Bytes, Meta(examples=["10GiB"])] = Bytes(10 << 30)
    """How much disk all output on this node may take. Beyond it the oldest output files of finished
    runs are removed; output of open runs is not touched."""
    free_floor: Annotated[Bytes, Meta(examples=["512MiB"])] = Bytes(512 << 20)
    """How much of the disk stays free: below it output is removed in the same way, whatever filled
    the disk. The default has room for what eight runs may write between two looks, and for the
    database. `0KiB`: no floor."""

    def _mistakes(self) -> Iterator[str]:
        yield from at_least(LEAST_BUDGET, self, "run_budget")
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
        """How long finished tasks are kept; None: for ever."""
        return duration_or_never(self.retention)


class LogsSection(Section, frozen=True):
    """How much the daemon logs, and in which form."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(examples=["warning"])] = (
        "info"
    )
    """The lowest level to log."""
    format: Annotated[Literal["auto", "json", "console", "journal"], Meta(examples=["json"])] = (
        "auto"
    )
    """JSON lines, coloured lines for people (`console`), or records of systemd's journal with a
    field for each key (`journalctl DISPATCHER_TASK_ID=42`). `auto` means `console` on a terminal,
    `journal` if stdout is the journal, and `json` elsewhere. A change reaches the executor when it
    starts."""


class MetricsSection(Section, frozen=True):
    """A file of figures for Prometheus' node exporter; `dispatcher metrics` prints the same."""

    textfile: Annotated[str, Meta(examples=["/var/lib/node_exporter/dispatcher.prom"])] | None = (
        None
    )
    """The file to write, readable for everybody; the node exporter reads files that end with
    `.prom`. Under systemd the unit also needs a `ReadWritePaths=` for its directory, which
    `dispatcher install-service` writes. Left out: no file."""
    interval_ms: Annotated[Milliseconds, Meta(examples=["15s"])] = Milliseconds(15_000)
    """How often it is written; a process takes about a quarter of a second for it."""

    def _mistakes(self) -> Iterator[str]:
        if self.textfile is not None and not (
            self.textfile.startswith("/") and self.textfile.endswith(".prom")
        ):
            yield (
                f"textfile: {self.textfile!r} is not an absolute path that ends with .prom, which"
                ' the node exporter needs; write for example "/var/lib/node_exporter/dispatcher'
                '.prom"'
            )
        yield from at_least(LEAST_METRICS_INTERVAL, self, "interval_ms")
