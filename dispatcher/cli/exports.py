"""What `claim --export` prints: lines that a shell evaluates."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress

import click

from dispatcher import control, worker_api
from dispatcher.cli.claims import LOCK
from dispatcher.cli.printing import printed
from dispatcher.config.config import Config
from dispatcher.errors import DispatcherError
from dispatcher.execution import Claim
from dispatcher.executor_api import worker_environment

#: Variables for a shell alone: a worker has them as its stdin, its directory and its command.
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


#: Unsets what describes a claim, and is false. `lines` makes it true.
END_OF_LOOP = f"unset {' '.join(OF_CLAIM)};\nfalse"


def lines(claimed: Claim, config: Config, *, locked: bool) -> Iterator[str]:
    """Yield what follows `END_OF_LOOP`: lines that set a worker's variables, and are true.

    They are one command of the shell, so that a part of them sets nothing, and is an error. The
    marker of a run that we started is left out. A variable that is too long for a program's
    environment is the shell's own.
    """
    yield " || {"
    yield from _settings(claimed, config, locked=locked)
    yield "true; }"


def _settings(claimed: Claim, config: Config, *, locked: bool) -> Iterator[str]:
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


class ExportCommand(click.Command):
    """A command whose --export ends loops unless a claim is printed to its end.

    Otherwise a loop would go on with the claim of before.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        is_wanted = "--export" in args  # which parsing empties
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.exceptions.Exit:  # of --help
            raise
        except BaseException:
            if is_wanted:
                with suppress(OSError):
                    click.echo(END_OF_LOOP)
            raise

    def invoke(self, ctx: click.Context) -> object:
        if not ctx.params["export"]:
            return super().invoke(ctx)
        with printed(_nothing_claimed):  # before it claims: it may be killed at any instant
            click.echo(END_OF_LOOP, nl=False)
        try:
            return super().invoke(ctx)
        except BaseException:
            with suppress(OSError):
                click.echo()
            raise


def _nothing_claimed(why: str) -> DispatcherError:
    return DispatcherError(f"cannot write: {why}; nothing was claimed")
