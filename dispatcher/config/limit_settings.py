"""The section `[limits.NAME]`, and which limits the other sections name."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Protocol

from msgspec import Meta

from dispatcher import named_limits
from dispatcher.config.section import Section
from dispatcher.config.task_settings import TaskDefaults
from dispatcher.errors import did_you_mean
from dispatcher.named_limits import MOST, Rule


class Limit(Section, frozen=True):
    """One named limit, which tasks take by `--limit NAME`: how much of it all nodes that share the
    store use together. Each daemon obeys its own file, so give all files the same numbers. With
    neither key it limits nothing until somebody closes it (`dispatcher limit close NAME`).
    """

    concurrency: Annotated[int, Meta(ge=1, le=MOST, examples=[4])] | None = None
    """How many of the tasks that take it run at once. A task may take more than one of it
    (`--limit NAME=2`), and then counts so often."""
    rate: Annotated[str, Meta(examples=["10/1m"])] | None = None
    """How many of them start in any window of this length. A start counts, however its run ends."""

    def _mistakes(self) -> Iterator[str]:
        try:
            _ = self.rule
        except ValueError as error:
            yield f"rate: {error}"

    @property
    def rule(self) -> Rule:
        """What it allows. Raises ValueError for a mistaken rate."""
        rate = None if self.rate is None else named_limits.parse_rate(self.rate)
        return Rule(concurrency=self.concurrency, rate=rate)


def unusable(takes: Mapping[str, int], limits: Mapping[str, Limit]) -> Iterator[str]:
    """Yield why a task may not take these limits, each with the remedy."""
    for name, many in takes.items():
        if name not in limits:
            near = did_you_mean(name, limits)
            known = f"configured are: {', '.join(sorted(limits)) or 'none'}"
            yield f"there is no limit {name!r}{near}; {known}; or add [limits.{name}]"
            continue
        most = limits[name].rule.most
        if not 1 <= many <= (most or MOST):
            yield f"{name}: must be from 1 to {most or MOST}, not {many}, or it could never start"


class _Tables(Protocol):
    """The parts of a configuration that name limits."""

    @property
    def limits(self) -> Mapping[str, Limit]: ...
    @property
    def queues(self) -> Mapping[str, TaskDefaults]: ...
    @property
    def profiles(self) -> Mapping[str, TaskDefaults]: ...


def mistaken(config: _Tables, file: str, mistakes: list[str]) -> dict[str, list[str]]:
    """Return the mistakes of the `limits` of profiles, by profile; add all, and those of queues."""

    def found(section: str, tables: Mapping[str, TaskDefaults]) -> dict[str, list[str]]:
        lines = {
            name: [
                f"{file}: {section}.{name}.limits: {what}"
                for what in unusable(table.limits, config.limits)
            ]
            for name, table in tables.items()
            if table.limits
        }
        return {name: some for name, some in lines.items() if some}

    of_queues, of_profiles = found("queues", config.queues), found("profiles", config.profiles)
    for some in (*of_queues.values(), *of_profiles.values()):
        mistakes += some
    return of_profiles
