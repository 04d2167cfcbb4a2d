"""`dispatcher run`, `reload` and `executor`: what units call."""

from __future__ import annotations

import os
import sys

import click

from dispatcher import control
from dispatcher.cli.options import (
    config_option,
    configuration,
    configuration_of_executor,
    examples,
    json_option,
    print_json,
)
from dispatcher.cli.progress import is_watched
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.exit_codes import ExitCode
from dispatcher.host import owner
from dispatcher.host.node import node_id

#: Mistakes of a file that an executor logs: an argument each.
MOST_MISTAKES = 20


@click.command(
    epilog=examples(
        "dispatcher run                  # until SIGTERM or Ctrl-C",
        "dispatcher run --drain          # until nothing is left to do",
        "dispatcher run --config /etc/dispatcher/dispatcher.toml",
    )
)
@click.option(
    "--drain",
    is_flag=True,
    help="Exit 0 when no task is ready, scheduled or running, but in queues that are paused or for "
    "claims by hand.",
)
@config_option
def run(*, drain: bool) -> int:
    """Run the daemon in the foreground: it claims tasks, runs them and settles them.

    It starts an executor unless the configuration says that one runs by itself.
    """
    config = configuration()
    from dispatcher.daemon import daemon  # noqa: PLC0415 - nobody else's import time

    if not drain or not is_watched():
        return daemon.main(config, drain=drain)
    from dispatcher.cli.draining import shown  # noqa: PLC0415 - who looks on

    with shown(config) as onlooker:
        return daemon.main(config, drain=True, onlooker=onlooker)


@click.command("reload", epilog=examples("dispatcher reload"))
@json_option
@config_option
def reload(*, as_json: bool) -> int:
    """Let the running daemon read its configuration again, and print what changed.

    With a mistake in the file the old configuration holds on; exit code 78.
    """
    config = configuration()
    try:
        answer = control.reload(control.find(config))
    except TimeoutError:
        raise DispatcherError("the daemon does not answer; see: dispatcher status") from None
    if answer is None and (why := control.why_unreachable(config)) is not None:
        raise DispatcherError(why)
    if answer is None:
        raise DispatcherError("no daemon runs here; it reads its file when it starts")
    if not answer["ok"]:
        raise ConfigError(answer["message"])
    if as_json:
        print_json({"changed": answer["changed"], "kept": answer["kept"]})
        return ExitCode.OK
    for key, change in answer["changed"].items():
        click.echo(f"{key}: {change['old'] or '(none)'} -> {change['new'] or '(none)'}")
    for key, change in answer["kept"].items():
        click.echo(f"{key}: still {change['old']}; restart the daemon for {change['new']}")
    if not answer["changed"] and not answer["kept"]:
        click.echo("nothing changed")
    return ExitCode.OK


@click.command(epilog=examples("dispatcher executor --config /etc/dispatcher/dispatcher.toml"))
@config_option
def executor() -> None:
    """Run the executor in the foreground, for `[executor] mode = "external"`.

    It is the parent of the workers and outlives daemons; SIGTERM ends all its runs. Of the
    configuration it needs the directories: with a mistake elsewhere it goes on, and logs it.
    """
    config, mistakes = configuration_of_executor()
    me = node_id(config.state_dir)
    form = config.logs.format
    command = [
        *(sys.executable, "-P", "-m", "dispatcher.executor"),
        *("--state-dir", str(config.state_dir)),
        *("--runtime-dir", str(config.runtime_dir)),
        *("--node-id", me),
        *("--log-format", "auto" if form == "console" else form),
        *(f"--mistake={mistake}".replace("\0", "\\0") for mistake in mistakes[:MOST_MISTAKES]),
    ]
    if (user := owner.became()) is not None:
        command += ["--became", str(user.place)]
    os.execv(sys.executable, command)  # noqa: S606 - the same interpreter, no shell
