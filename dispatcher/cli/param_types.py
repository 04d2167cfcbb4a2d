"""The types of arguments and options."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dispatcher.quantities import durations, signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import from_iso

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def offered(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return the completion callback for a kind of name that `offers.offer` knows."""

    def complete(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        from dispatcher.cli.offers import offer  # noqa: PLC0415 - for the Tab key alone

        with ctx.scope(cleanup=False):
            return offer(kind, begun)

    return complete


class FilePath(click.Path):
    """A file's path; not "", which is what a script's unset variable gives."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Refuse "", which Python takes for the current directory."""
        if not os.fspath(value):
            self.fail("it is empty; name a file", param, ctx)
        return super().convert(value, param, ctx)


class Text(click.ParamType[str]):
    """A text that a database can hold; bytes that are not UTF-8 arrive as lone surrogates."""

    name = "text"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Refuse what is not UTF-8."""
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("is not UTF-8; encode it so", param, ctx)
        return text


TEXT = Text()


COUNT = click.IntRange(1, 10**9)


FILE = FilePath(dir_okay=False, path_type=Path)


class TaskId(click.IntRange):
    """A task's number."""

    name = "task id"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the ids of the newest tasks that begin so."""
        return offered("tasks")(ctx, param, incomplete)


ID = TaskId(1, 2**63 - 1)


class Duration(click.ParamType[Milliseconds]):
    """A duration with its unit."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Milliseconds:
        """Return it in milliseconds."""
        if isinstance(value, Milliseconds):
            return value
        try:
            return durations.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Moment(click.ParamType[int]):
    """A time: an age as `Milliseconds`, or a date as milliseconds since the epoch."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return an age or a date."""
        if isinstance(value, int):
            return value
        try:
            return durations.parse(value)
        except ValueError:
            pass
        try:
            return from_iso(str(value))
        except (ValueError, OverflowError):
            remedy = 'write how long ago, e.g. "2h", or a date, e.g. "2026-08-01T06:00"'
            self.fail(f"{value!r} is not a time; {remedy}", param, ctx)


class Signal(click.ParamType[int]):
    """A signal by its name or number."""

    name = "signal"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return its number."""
        try:
            return signal_names.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
