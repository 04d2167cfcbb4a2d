"""`dispatcher stop`: stop the running daemon, and wait for its end."""

from typing import Literal

import click

from dispatcher.cli import own_daemon
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.foreign_verbs import no_arguments
from dispatcher.cli.options import config_option, examples
from dispatcher.exit_codes import ExitCode
from dispatcher.host import locks


@click.command(
    context_settings={"allow_extra_args": True},
    epilog=examples(
        "dispatcher stop          # as configured: waits for runs, then releases them",
        "dispatcher stop --leave  # runs go on; the next daemon continues them",
        "dispatcher stop --now    # ends runs at once; they run again",
    ),
)
@click.option("--leave", is_flag=True, help="Let runs go on; the next daemon continues them.")
@click.option("--now", is_flag=True, help="End runs at once: released, they run again.")
@config_option
def command(*, leave: bool, now: bool) -> ExitCode:
    """Stop the running daemon, and wait until it has ended.

    Without an option it does what SIGTERM does ([daemon] on_stop). A daemon that a service manager
    runs is stopped there: `systemctl stop dispatcher`.
    """
    no_arguments("end a task", "dispatcher cancel")
    if leave and now:
        raise click.UsageError("--leave lets runs go on, --now ends them; give one")
    config = config_as_owner(whole=False)
    if (running := own_daemon.report(config)) is None:
        executor = locks.holder_of(config.state_dir / locks.EXECUTOR_LOCK)
        alone = f"; its executor (pid {executor}) lives"
        alone += f": {config.start_command()} goes on with its runs"
        click.echo(f"no daemon runs here{alone if executor else ''}")
        return ExitCode.OK
    how: Literal["leave", "at_once"] | None = "leave" if leave else "at_once" if now else None
    own_daemon.stop(config, running, how)
    leaves = leave or (how is None and config.on_stop == "leave")
    click.echo(own_daemon.stopped(running, leaves=leaves))
    return ExitCode.OK
