"""`python -m tests.crash.executor --die POINT`: the executor, with one call as its last."""

import argparse
import os
import resource
import signal
import sys

from dispatcher import times
from dispatcher.executor import bootstrap
from dispatcher.executor.executor import Executor, ExecutorIdentity
from dispatcher.executor.journal import Journal
from dispatcher.executor.log import Log
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.outside import Outside
from dispatcher.executor.records import Header
from dispatcher.executor.reports import Reporter
from dispatcher.executor.server import Server
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from tests.crash import sites
from tests.crash.family import become_subreaper
from tests.crash.mortal import Fate, Point, kill_this_process


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--runtime-dir", required=True)
    parser.add_argument("--node-id", required=True)
    parser.add_argument("--die", required=True, type=Point.parse)
    options = parser.parse_args(arguments)
    os.chdir("/")
    os.umask(0o077)
    become_subreaper()
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    locks = [
        bootstrap.lock_directory(directory)
        for directory in (options.state_dir, options.runtime_dir)
    ]
    fate = Fate(options.die, kill=kill_this_process)
    compose(options, fate).run()
    del locks


def compose(options: argparse.Namespace, fate: Fate) -> Executor:
    log = Log(sys.stderr.fileno())
    namespace = os.readlink("/proc/self/ns/pid")
    node = ExecutorIdentity(options.node_id, options.state_dir, times.boot_id(), namespace)
    kernel = Kernel()
    mortal_kernel = sites.mortal_kernel(kernel, fate)
    outputs = sites.mortal_outputs(OutputFiles(), fate)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    spawner = Spawner(outputs, environ=os.environ, open_files=files)
    header = Header(boot_id=node.boot_id, pid_namespace=namespace)
    journal = Journal(f"{options.state_dir}/executor.journal", header)
    server = Server(options.runtime_dir, mortal_kernel, log)
    mortal_server = sites.mortal_server(server, fate)
    outside = Outside(
        kernel=mortal_kernel,
        spawner=sites.mortal_spawner(spawner, fate),
        outputs=outputs,
        server=mortal_server,
        notices=Notices(options.runtime_dir, mortal_kernel, server),
        report=Reporter(sites.mortal_journal(journal, fate), log, mortal_server.send),
    )
    executor = Executor(node, outside, embedded=True)
    bootstrap.obey_sigterm(executor.shut_down, kernel)
    return executor


if __name__ == "__main__":
    main(sys.argv[1:])
