"""`dispatcher run`, `executor` and `check-config`: what units and their authors call."""

from __future__ import annotations

import os
import sys

import click

from dispatcher.cli.options import config_option, configuration, examples, json_option, print_json
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


@click.command("check-config", epilog=examples("dispatcher check-config --config new.toml"))
@json_option
@config_option
def check_config(*, as_json: bool) -> None:
    """Read the configuration, say every mistake with its remedy, and exit 78 if there is one."""
    config = configuration()
    source = str(config.file) if config.file is not None else None
    if as_json:
        print_json(
            {
                "file": source,
                "state_dir": str(config.state_dir),
                "runtime_dir": str(config.runtime_dir),
                "store_url": config.store_url,
                "slots": config.slots,
            }
        )
    else:
        click.echo(f"{source or 'built-in defaults'}: ok")
