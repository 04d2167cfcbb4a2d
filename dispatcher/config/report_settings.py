"""The sections about what the daemon reports of itself: its log and its figures."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from dispatcher.config.section import LEAST_METRICS_INTERVAL, Section, at_least
from dispatcher.quantities.durations import Milliseconds


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
