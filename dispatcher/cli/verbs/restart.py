"""`dispatcher restart`: replace the running daemon by one in the background."""

import os

import click

from dispatcher.cli import own_daemon
from dispatcher.cli.configuration import config_as_owner, name_file, named_file
from dispatcher.cli.foreign_verbs import no_arguments
from dispatcher.cli.options import config_option, examples
from dispatcher.config.config import Config
from dispatcher.daemon_report import DaemonReport
from dispatcher.errors import ConfigError


@click.command(
    context_settings={"allow_extra_args": True},
    epilog=examples(
        "dispatcher restart                      # runs go on meanwhile",
        "dispatcher restart --config other.toml  # with another file",
    ),
)
@config_option
def command() -> int:
    """Replace the running daemon by a new one in the background, with the same file.

    Runs go on: their executor outlives the daemon, and the new one continues them. If no
    daemon runs, one is started. The configuration is checked before anything is stopped.
    """
    no_arguments("run a task again", "dispatcher retry")
    config = config_as_owner()
    if (running := own_daemon.report(config)) is not None:
        config = _as_running(config, running)
        own_daemon.stop(config, running, "leave")
        click.echo(own_daemon.stopped(running, leaves=True))
    return own_daemon.run_detached(config, drain=False)


def _as_running(config: Config, running: DaemonReport) -> Config:
    """Return the configuration in the file that the daemon reads, unless another one is named."""
    file = running.config_file
    is_named = named_file() is not None or os.environ.get("DISPATCHER_CONFIG")
    if is_named or not file or file == str(config.file):
        return config
    name_file(click.get_current_context(), file)
    found = config_as_owner()
    if found.state_dir != config.state_dir:
        raise ConfigError(
            f"{file}, which the daemon reads, names the state directory {found.state_dir} by now;"
            " stop the daemon, then run it"
        )
    return found
