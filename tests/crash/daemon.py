"""`python -m tests.crash.daemon --die POINT`: `dispatcher run`, with one call as its last."""

import argparse
import signal
import sys
from contextlib import ExitStack, closing
from functools import partial

from dispatcher.config import config
from dispatcher.daemon.commands import STOP_SIGNALS
from dispatcher.daemon.daemon import Daemon, Surroundings, executor_client
from dispatcher.daemon.executor_connection import connect_to
from dispatcher.daemon.launcher import EmbeddedLauncher
from dispatcher.daemon.run import locked_store
from dispatcher.host import sockets
from dispatcher.host.locks import DAEMON_LOCK, lock_file
from dispatcher.host.node import node_id
from dispatcher.host.runtime_directory import BoundSocket
from dispatcher.host.signals import caught
from dispatcher.logs import logs
from tests.crash import sites
from tests.crash.mortal import Fate, Point, kill_this_process


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--die", required=True, type=Point.parse)
    options = parser.parse_args(arguments)
    run(config.load(options.config), Fate(options.die, kill=kill_this_process))


def run(given: config.Config, fate: Fate) -> None:
    logs.set_up(given)
    node = node_id(given.state_dir)
    with ExitStack() as stack:
        stack.enter_context(
            closing(lock_file(given.state_dir / DAEMON_LOCK, "the state directory"))
        )
        store = stack.enter_context(locked_store(given, node))
        signals = stack.enter_context(caught((*STOP_SIGNALS, signal.SIGHUP)))
        control = BoundSocket(str(given.control_socket), partial(sockets.listen, backlog=1))
        launcher = EmbeddedLauncher(
            state_dir=given.state_dir, runtime_dir=given.runtime_dir, node_id=node
        )
        client = executor_client(
            given,
            node,
            store,
            connect=sites.mortal_connect(partial(connect_to, str(given.executor_socket)), fate),
            launcher=sites.mortal_launcher(launcher, fate),
        )
        daemon = Daemon(
            given,
            node=node,
            store=sites.mortal_store(store, fate),
            executor=sites.mortal_client(client, fate),
            until_idle=False,
            around=Surroundings(signals=signals, listen=lambda: control),
        )
        stack.callback(daemon.close)
        daemon.run()


if __name__ == "__main__":
    main(sys.argv[1:])
