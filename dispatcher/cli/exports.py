"""What `claim --export` prints: lines that a shell evaluates."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import click

from dispatcher import control, worker_api
from dispatcher.cli.claims import LOCK
from dispatcher.config.config import Config
from dispatcher.execution import Claim
from dispatcher.executor_api import worker_environment

#: Variables of a claim that a worker has no need of: they are its stdin, its directory and itself.
PAYLOAD = "DISPATCHER_PAYLOAD"
CWD = "DISPATCHER_CWD"
COMMAND = "DISPATCHER_COMMAND"

#: The variables that describe one claim.
OF_CLAIM = (
    *("DISPATCHER_TASK_ID", "DISPATCHER_RUN_ID", "DISPATCHER_ATTEMPT", "DISPATCHER_FENCE", LOCK),
    *("DISPATCHER_SOCKET", "DISPATCHER_LEASE_TTL", "DISPATCHER_HEARTBEAT_INTERVAL"),
    *("DISPATCHER_QUEUE", "DISPATCHER_LAST_OUTCOME", PAYLOAD, CWD, COMMAND),
)

#: Bytes of a variable with its name that Linux hands to a program (MAX_ARG_STRLEN).
_MOST = 128 * 1024


def lines(claimed: Claim, config: Config, *, locked: bool) -> Iterator[str]:
    """Yield lines that set a worker's variables, without the marker of a run that we started.

    A variable that is too long for a program's environment is the shell's own.
    """
    socket = control.find(config).with_name("worker.sock")
    variables: Mapping[str, str | None] = {
        **config.environment,
        **worker_environment(claimed, str(socket)),
        PAYLOAD: claimed.payload,
        CWD: claimed.cwd,
        COMMAND: _command(claimed),
    }
    for name, value in variables.items():
        if name == worker_api.MARKER or (name == LOCK and not locked):
            continue
        if value is None:
            yield f"unset {name}"
        elif len(f"{name}={value}\0".encode(errors="surrogateescape")) <= _MOST:
            yield f"export {name}={shlex.quote(value)}"
        else:
            yield f"unset {name}; {name}={shlex.quote(value)}"


def _command(claimed: Claim) -> str:
    """Return the command for a shell's `eval`, with the variables of its task."""
    variables = [f"{name}={value}" for name, value in claimed.env.items()]
    return shlex.join([*(["env", *variables] if variables else []), *claimed.command])


@contextmanager
def ending_loops(*, wanted: bool) -> Iterator[None]:
    """After an error, print a line that unsets what describes a claim, and is false.

    Otherwise `while eval "$(dispatcher claim --export)"` would go on with the claim of before.
    """
    try:
        yield
    except click.exceptions.Exit:  # of --help
        raise
    except BaseException:
        if wanted:
            with suppress(OSError):
                click.echo(f"unset {' '.join(OF_CLAIM)}; false")
        raise


class ExportCommand(click.Command):
    """A command whose --export ends loops, also for a mistake in the command line."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        with ending_loops(wanted="--export" in args):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        with ending_loops(wanted=bool(ctx.params["export"])):
            return super().invoke(ctx)
