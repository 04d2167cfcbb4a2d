"""`python -m tests.crash.daemon --die POINT`: `dispatcher run`, with one call as its last."""

from __future__ import annotations

import argparse
import random
import signal
import sys
from contextlib import ExitStack
from functools import partial

from dispatcher.config import config
from dispatcher.daemon.daemon import STORE_PATIENCE, _check_store, settings
from dispatcher.daemon.executor_client import ExecutorClient, connect_to
from dispatcher.daemon.launcher import EmbeddedLauncher
from dispatcher.daemon.loop import STOP_SIGNALS, Loop
from dispatcher.host import sockets
from dispatcher.host.locks import hold
from dispatcher.host.node import node_id
from dispatcher.host.runtime_directory import BoundSocket
from dispatcher.host.signals import Signals
from dispatcher.logs import logs
from dispatcher.store.api import Store
from dispatcher.store.open import lock_database, open_store
from dispatcher.supervisor.supervisor import Stop, Supervisor
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
    me = node_id(given.state_dir)
    with ExitStack() as stack:
        stack.enter_context(hold(given.state_dir / "lock", "the state directory"))
        stack.enter_context(lock_database(given.store_url, state_dir=given.state_dir))
        store = open_store(given.store_url, state_dir=given.state_dir, patience=STORE_PATIENCE)
        stack.callback(store.close)
        signals = stack.enter_context(Signals((*STOP_SIGNALS, signal.SIGHUP)))
        client = sites.mortal_client(executor_client(given, me, store, fate), fate)
        supervisor = Supervisor(
            sites.mortal_store(store, fate),
            client,
            settings(given, me, until_idle=False),
            rng=random.SystemRandom(),
        )
        control = BoundSocket(str(given.control_socket), partial(sockets.listen, backlog=1))
        loop = Loop(supervisor, client, signals=signals, control=control, on_stop=Stop.DRAIN)
        stack.callback(loop.close)
        loop.run()
        loop.take_leave(for_good=True, within=1.0)


def executor_client(given: config.Config, me: str, store: Store, fate: Fate) -> ExecutorClient:
    launcher = EmbeddedLauncher(
        state_dir=given.state_dir, runtime_dir=given.runtime_dir, node_id=me
    )
    return ExecutorClient(
        sites.mortal_connect(partial(connect_to, str(given.executor_socket)), fate),
        node_id=me,
        state_dir=str(given.state_dir),
        launcher=sites.mortal_launcher(launcher, fate),
        check=partial(_check_store, store, given.state_dir),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
