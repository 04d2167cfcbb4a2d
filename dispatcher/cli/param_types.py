"""The types of arguments and options."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dispatcher.cli import lines
from dispatcher.model import TaskState
from dispatcher.quantities import durations, signal_names
from dispatcher.task_checks import MAX_PARENTS
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


class Parsed(click.ParamType[Any]):
    """A text that a function converts; its ValueError has the remedy."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Convert a text; a default has its type already."""
        if isinstance(value, int):
            return value
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _utf8(text: str) -> str:
    """Return a text that a database can hold; bytes that are not UTF-8 arrive as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8; encode it so") from None
    return text


def _moment(text: str) -> int:
    """Return an age as `Milliseconds`, or a date as milliseconds since the epoch."""
    with suppress(ValueError):
        return durations.parse(text)
    try:
        return from_iso(text)
    except (ValueError, OverflowError):
        remedy = 'write how long ago, e.g. "2h", or a date, e.g. "2026-08-01T06:00"'
        raise ValueError(f"{text!r} is not a time; {remedy}") from None


def _until(text: str) -> int:
    """Return a time from now as `Milliseconds`, or a date in milliseconds since the epoch."""
    with suppress(ValueError):
        return durations.parse(text)
    try:
        return lines.start_of(text)
    except ValueError as error:
        raise ValueError(f'{error}; or a time from now, e.g. "2h"') from None


class TaskId(click.IntRange):
    """The id of a task; a shell completes those of the newest tasks in some states."""

    name = "task id"

    def __init__(self, states: Collection[TaskState] | None = None) -> None:
        super().__init__(1, 2**63 - 1)
        self._states = states

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the ids that begin so."""
        del param
        from dispatcher.cli.offers import offer_tasks  # noqa: PLC0415 - for the Tab key alone

        with ctx.scope(cleanup=False):
            return offer_tasks(self._states, incomplete)


class TaskIds(click.ParamType[Any]):
    """The id of a task, or a range of ids: 12-40."""

    name = TaskId.name

    def __init__(self, states: Collection[TaskState] | None = None) -> None:
        self._one = TaskId(states)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return an id, or the ids of a range."""
        ends: list[Any] = str(value).split("-", 1)
        if not all(ends) or len(ends) == 1:
            return self._one.convert(value, param, ctx)
        first, last = (self._one.convert(end, param, ctx) for end in ends)
        if first > last:
            self.fail(f"{value!r} runs backwards; write {last}-{first}", param, ctx)
        return range(first, last + 1)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the ids that begin so."""
        return self._one.shell_complete(ctx, param, incomplete)


class Parents(click.ParamType[Any]):
    """The tasks that another waits for: ids and ranges, separated by commas, or a key."""

    name = "tasks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return ids, or a key."""
        if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", str(value)):
            return (str(value),)
        ids: list[int] = []
        for part in str(value).split(","):
            one = TASK_IDS.convert(part, param, ctx)
            ids += [one] if isinstance(one, int) else one[: MAX_PARENTS + 1]
        return tuple(ids)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the ids that begin so."""
        return TASK_IDS.shell_complete(ctx, param, incomplete)


def file_names(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return what makes a shell complete the name of a file, whatever its kind."""
    return _by_the_shell("file", incomplete)


def directory_names(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return what makes a shell complete the name of a directory."""
    return _by_the_shell("dir", incomplete)


def _by_the_shell(kind: str, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for the Tab key alone

    return [CompletionItem(incomplete, type=kind)]


TASK_IDS = TaskIds()
PARENTS = Parents()
COUNT = click.IntRange(1, 10**9)
DURATION = Parsed("duration", durations.parse)
FILE = FilePath(dir_okay=False, path_type=Path)
MOMENT = Parsed("time", _moment)
SIGNAL = Parsed("signal", signal_names.parse)
START = Parsed("time", lines.start_of)
TEXT = Parsed("text", _utf8)
UNTIL = Parsed("time", _until)
