"""`dispatcher executor`: run the executor."""

import os
import sys
from contextlib import suppress

import click

from dispatcher.cli.configuration import executor_config
from dispatcher.cli.options import config_option, examples
from dispatcher.host import owner
from dispatcher.host.node import node_id

#: Mistakes of a file that an executor logs; each is an argument.
MOST_MISTAKES = 20


@click.command(epilog=examples("dispatcher executor --config /etc/dispatcher/dispatcher.toml"))
@config_option
def command() -> None:
    """Run the executor in the foreground, for `[executor] mode = "external"`.

    It is the parent of the workers and outlives daemons; SIGTERM ends all its runs. It needs only
    the directories of the configuration; other mistakes are only logged.
    """
    config, mistakes = executor_config()
    me = node_id(config.state_dir)
    if os.environ.get("HOME") == str(config.worker_home):  # as the unit sets it
        with suppress(OSError):
            config.worker_home.mkdir(mode=0o700)
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
