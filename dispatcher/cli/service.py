"""`dispatcher run` and `executor`: what units call."""

from __future__ import annotations

import os
import sys

import click

from dispatcher.cli.options import config_option, configuration, examples
from dispatcher.node import node_id


@click.command(
    epilog=examples(
        "dispatcher run                  # until SIGTERM or Ctrl-C",
        "dispatcher run --drain          # until nothing is left to do",
        "dispatcher run --config /etc/dispatcher/dispatcher.toml",
    )
)
@click.option("--drain", is_flag=True, help="Exit 0 when no task is ready, scheduled or running.")
@config_option
def run(*, drain: bool) -> int:
    """Run the daemon in the foreground: it claims tasks, runs them and settles them.

    It starts an executor unless the configuration says that one runs by itself.
    """
    config = configuration()
    from dispatcher import daemon  # noqa: PLC0415 - nobody else's import time

    return daemon.main(config, drain=drain)


@click.command(epilog=examples("dispatcher executor --config /etc/dispatcher/dispatcher.toml"))
@config_option
def executor() -> None:
    """Run the executor in the foreground, for `[executor] mode = "external"`.

    It is the parent of the workers and outlives daemons; SIGTERM ends all its runs.
    """
    config = configuration()
    me = node_id(config.state_dir)
    command = [
        *(sys.executable, "-m", "dispatcher.executor"),
        *("--state-dir", str(config.state_dir)),
        *("--runtime-dir", str(config.runtime_dir)),
        *("--node-id", me),
    ]
    os.execv(sys.executable, command)  # noqa: S606 - the same interpreter, no shell
