"""What the verbs share: the configuration, types of values, the form of what they print."""

from __future__ import annotations

from collections.abc import Callable

import click
import msgspec

from dispatcher import durations, limits
from dispatcher.client import Client
from dispatcher.config import Config, load
from dispatcher.durations import Milliseconds

_NAMED = "dispatcher.config"


def _remember(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    # Given before the verb or after it; the latter is read last and wins.
    if path is not None:
        ctx.meta[_NAMED] = path


config_option = click.option(
    "--config",
    metavar="PATH",
    callback=_remember,
    expose_value=False,
    help="Configuration file [default: $DISPATCHER_CONFIG, else /etc/dispatcher/dispatcher.toml].",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class TaskId(click.IntRange):
    """A task's number."""

    name = "task id"


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


def examples(*lines: str) -> str:
    """Return the end of a help text: lines that can be tried as they are."""
    # The backspace keeps click from wrapping what follows.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def configuration() -> Config:
    """Return the configuration that the command line asks for. Raises `ConfigError`."""
    return load(click.get_current_context().meta.get(_NAMED))


def client() -> Client:
    """Open the store of that configuration."""
    return Client(configuration())


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


class Signal(click.ParamType[int]):
    """A signal by its name or number."""

    name = "signal"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return its number."""
        try:
            return limits.signal_number(value)
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
        "--kill-signal", type=Signal(), metavar="SIGNAL", help="Asks a run to end [default: TERM]."
    )(command)
    for name, text in reversed(_LIMITS.items()):
        command = click.option(f"--{name}", type=Duration(), metavar="DURATION", help=text)(command)
    return command


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    # As bytes: JSON is UTF-8, whatever the terminal's encoding is.
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
