"""`dispatcher run`: run the daemon."""

import click

from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.options import config_option, examples
from dispatcher.cli.progress import is_watched
from dispatcher.logs.lean import without_rich

with without_rich():
    from dispatcher.daemon.run import run as run_daemon


@click.command(
    epilog=examples(
        "dispatcher run                  # until SIGTERM or Ctrl-C",
        "dispatcher run --detach         # in the background, until `dispatcher stop`",
        "dispatcher run --drain          # until no work is left",
        "dispatcher run --config /etc/dispatcher/dispatcher.toml",
    )
)
@click.option(
    "--drain",
    is_flag=True,
    help="Exit 0 when no task is ready, scheduled or running, except in queues that are paused or "
    "kept for local claims.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Run in the background; return once the daemon answers. It logs to daemon.log in the "
    "state directory.",
)
@config_option
def command(*, drain: bool, detach: bool) -> int:
    """Run the daemon in the foreground: it claims tasks, runs them and settles them.

    It starts an executor unless the configuration sets `[executor] mode = "external"`.
    """
    config = config_as_owner(warn=detach)  # otherwise the log names the mistakes
    if detach:
        from dispatcher.cli import own_daemon  # noqa: PLC0415 - not for services

        return own_daemon.run_detached(config, drain=drain)
    if not drain or not is_watched():
        return run_daemon(config, drain=drain)
    from dispatcher.cli.draining import shown  # noqa: PLC0415 - for terminals

    with shown(config) as onlooker:
        return run_daemon(config, drain=True, onlooker=onlooker)
