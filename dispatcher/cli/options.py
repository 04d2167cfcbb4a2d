"""What the verbs share: the configuration, types of values, the form of what they print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dispatcher.client import Client
from dispatcher.config.config import Config, Mistaken, find, load
from dispatcher.errors import ConfigError
from dispatcher.host import owner
from dispatcher.quantities import durations, signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import from_iso
from dispatcher.wire import KillMode

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from dispatcher.config.directories import Found

_NAMED = "dispatcher.config.config"


def _remember(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    # Given before the verb or after it; the latter is read last and wins.
    if path is not None:
        ctx.meta[_NAMED] = path


config_option = click.option(
    "--config",
    metavar="PATH",
    callback=_remember,
    expose_value=False,
    help="Configuration file [default: $DISPATCHER_CONFIG, else"
    " ~/.config/dispatcher/dispatcher.toml, else /etc/dispatcher/dispatcher.toml].",
)


def named_file() -> str | None:
    """Return the configuration file that the command line names."""
    named: str | None = click.get_current_context().meta.get(_NAMED)
    return named


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

absolute_option = click.option(
    "--absolute", is_flag=True, help="Print times in UTC instead of how long ago they were."
)


def offered(what: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return what gives a shell the names that fit: of what `completion.offer` knows."""

    def complete(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        from dispatcher.cli.completion import offer  # noqa: PLC0415 - for who presses the key

        with ctx.scope(cleanup=False):
            return offer(what, begun)

    return complete


class FilePath(click.Path):
    """A file's path, which is not "": what a script's unset variable gives."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Refuse the empty one, which Python takes for the present directory."""
        if not os.fspath(value):
            self.fail("it is empty; name a file", param, ctx)
        return super().convert(value, param, ctx)


class Text(click.ParamType[str]):
    """A text that a database can hold: what no UTF-8 is comes as lone surrogates."""

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

#: How many of something are wanted.
COUNT = click.IntRange(1, 10**9)

FILE = FilePath(dir_okay=False, path_type=Path)


class TaskId(click.IntRange):
    """A task's number."""

    name = "task id"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the newest tasks' ids that begin so."""
        return offered("tasks")(ctx, param, incomplete)


ID = TaskId(1, 2**63 - 1)

one_id = click.argument("task_id", metavar="ID", type=ID)

many_ids = click.argument(
    "task_ids",
    metavar="ID...",
    type=ID,
    nargs=-1,
    required=True,
    callback=lambda _ctx, _param, ids: tuple(dict.fromkeys(ids)),  # twice named is meant once
)


def _why(_: click.Context, __: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.UsageError("--reason: is empty; say why, for who reads it in `show` and `why`")
    return text


def reason_option(default: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that says why, for people; without a default it is required."""
    return click.option(
        "--reason",
        type=TEXT,
        metavar="TEXT",
        callback=_why,
        help="Why, for people.",
        **({"required": True} if default is None else {"default": default, "show_default": True}),
    )


def examples(*lines: str) -> str:
    """Return the end of a help text: lines that can be tried as they are."""
    # The backspace keeps click from wrapping what follows.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def configuration(*, whole: bool = True) -> Config:
    """Return the configuration, as `read_configuration`, of the store that is going to be used.

    Root becomes the user to whom the store's directory belongs: the file and what the command line
    names was read as root before, and nothing is opened as root after.
    """
    config = read_configuration(whole=whole)
    _become_owner(config)
    return config


def _become_owner(config: Config) -> None:
    if (foreign := owner.foreign_owner(config.state_dir, config.others)) is not None:
        owner.become(foreign, config.state_dir)


def read_configuration(*, whole: bool = True) -> Config:
    """Return the configuration that the command line asks for. Raises `ConfigError`.

    Unless it must be `whole`, mistakes are only said where the file still tells which daemon and
    store are meant: that daemon works on with what it read before, and should be reached.
    """
    try:
        return load(named_file())
    except ConfigError as error:
        if whole or isinstance(error.__cause__, OSError):
            raise
        if (rest := _certain_of(error)) is None:
            raise ConfigError(f"{error}\n{_MEANWHILE}") from error
        for line in (*str(error).splitlines(), "going on with what can be read of it"):
            click.echo(f"dispatcher: {line}", err=True)
        return rest


def _certain_of(error: ConfigError) -> Config | None:
    """Return what a file with a mistake says, if it is certain which daemon and store it means."""
    if isinstance(error, Mistaken):
        return error.rest if error.says_where else None
    from dispatcher.config import directories  # noqa: PLC0415 - for a file that is not TOML

    return directories.beside_mistakes(named_file(), with_store=True)


def variables_that_hold() -> Mapping[str, str]:
    """Return the environment without what does not belong to the file of the command line."""
    return find(click.get_current_context().meta.get(_NAMED), os.environ)[1]


def configuration_of_executor() -> Found:
    """Return the configuration, as `configuration`, if its directories are certain.

    Raises `ConfigError` if they are not.
    """
    from dispatcher.config import directories  # noqa: PLC0415 - for the executor alone

    found = directories.load(named_file())
    _become_owner(found.config)
    return found


_MEANWHILE = (
    "until that is mended, a file with only [node] state_dir in it (and [store] url, if it has one)"
    " reaches the daemon: --config PATH"
)


def client() -> Client:
    """Open the store of that configuration, for what needs no more of it than where it is."""
    return Client(configuration(whole=False))


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
    """A time: so long ago, as `Milliseconds`, or a date, as `StoreTime`."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the one or the other."""
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
            self.fail(f"{value!r} is no time; {remedy}", param, ctx)


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


_LIMITS = {
    "run-timeout": "A run longer than this is ended: timed_out.",
    "stall-timeout": "So is one without new progress or output for so long: stalled.",
    "start-timeout": "So is one without a first heartbeat: lost. With --liveness worker.",
    "queue-timeout": "It fails when it was ready for so long and no slot was free.",
    "total-timeout": "It fails when it is not done so long after this submit.",
    "kill-grace": "Time between the kill signal and SIGKILL [default: as configured].",
}


def limit_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that bound a task in time and say how its runs are ended."""
    command = click.option(
        "--kill-mode",
        type=click.Choice([mode.value for mode in KillMode]),
        help="Who gets it: all processes of the run, or only the one that was started; what is "
        "left after the grace gets SIGKILL [default: tree].",
    )(command)
    command = click.option(
        "--kill-signal", type=Signal(), metavar="SIGNAL", help="Asks a run to end [default: TERM]."
    )(command)
    for name, text in reversed(_LIMITS.items()):
        command = click.option(f"--{name}", type=Duration(), metavar="DURATION", help=text)(command)
    return command


def print_json_line(value: object) -> None:
    """Print a value as a line of JSON."""
    click.echo(msgspec.json.encode(value))


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    # As bytes: JSON is UTF-8, whatever the terminal's encoding is.
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_list(values: Iterable[object]) -> None:
    """Print the same for a list of which no more than one value is held."""
    opening = "["
    for value in values:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        sys.stdout.write(f"{opening}\n{text}".replace("\n", "\n  "))
        opening = ","
    click.echo("[]" if opening == "[" else "\n]")
