"""The worker's half for shell scripts: wrap a command, or send one request.

    python -m worker_stub run -- make all      # sends heartbeats while the command runs
    python -m worker_stub agent --help         # an agent: its events are the heartbeats
    python -m worker_stub heartbeat --progress 0.5 --note "half of it"
    python -m worker_stub succeed --result '{"rows": 3}'
    python -m worker_stub fail --reason "no such branch" --no-retry
    python -m worker_stub defer --delay 60
    python -m worker_stub defer --until 2026-08-01T06:00:00Z --close provider
    python -m worker_stub hold --reason "needs a password"
    python -m worker_stub mcp                  # the MCP server of an agent, over stdio
    python -m worker_stub misbehave --help     # for tests: hang, go silent, escape, flood

Exit codes: 0 ok, 1 refused, 2 usage, 69 no answer, 79 the claim is no longer ours; `run` and
`agent` exit as their command does, or 1 if it fails otherwise; `misbehave` as its options require.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from worker_stub import misbehave, names
from worker_stub.agent import options as agent_options
from worker_stub.child import StopSignal, cannot_start, follow
from worker_stub.daemon_socket import Unreachable
from worker_stub.worker import Refused, Worker

UNREACHABLE = 69


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _VERBS.get(options.verb, _send)(options)
    except Refused as refusal:
        _print_error(str(refusal))
        return names.LEASE_LOST if refusal.lost else 1
    except Unreachable as error:
        _print_error(f"no answer: {error}; the claim is unchanged, try again")
        return UNREACHABLE
    except (RuntimeError, ValueError) as error:
        _print_error(str(error))
        return 2


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(
        prog="worker_stub", description=__doc__, formatter_class=formatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    run = verbs.add_parser("run", help="run a command, and send heartbeats until it ends")
    run.add_argument("--pass-lock", action="store_true", help="pass the lock to the command")
    run.add_argument("--verify", metavar="CMD", help=agent_options.VERIFY)
    run.add_argument("command", nargs="+", metavar="CMD")
    agent = verbs.add_parser(
        "agent",
        help="run an agent's command line, whose events are the heartbeats",
        description=agent_options.DESCRIPTION,
        formatter_class=formatter,
    )
    agent_options.add_options(agent)
    verbs.add_parser("mcp", help="serve the tools of a task to an agent, over stdio")
    heartbeat = verbs.add_parser("heartbeat", help="renew the lease; print its seconds")
    heartbeat.add_argument("--progress", type=float, metavar="0..1")
    heartbeat.add_argument("--note", metavar="TEXT")
    _add_declarations(verbs)
    bad = verbs.add_parser(
        "misbehave",
        help="misbehave, for tests",
        description=misbehave.__doc__,
        formatter_class=formatter,
    )
    misbehave.add_options(bad)
    return parser


def _add_declarations(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verbs.add_parser("succeed", help="declare success").add_argument("--result", metavar="JSON")
    fail = verbs.add_parser("fail", help="declare failure")
    fail.add_argument("--reason", required=True, metavar="TEXT")
    fail.add_argument("--no-retry", action="store_true", help="for good")
    defer = verbs.add_parser("defer", help="declare that it is too early")
    defer.add_argument("--delay", type=float, metavar="SECONDS")
    defer.add_argument("--until", metavar="DATE")
    defer.add_argument(
        "--close", metavar="LIMIT", help="let nothing that takes it start until then"
    )
    defer.add_argument("--reason", metavar="TEXT")
    hold = verbs.add_parser("hold", help="declare that an operator must act")
    hold.add_argument("--reason", required=True, metavar="TEXT")
    hold.add_argument("--question", metavar="TEXT")
    hold.add_argument("--kind", choices=("needs_input", "capability", "approval"))


def _send(options: argparse.Namespace) -> int:
    worker = Worker(beats="calls")
    match options.verb:
        case "heartbeat":
            print(worker.heartbeat(options.progress, options.note))
        case "succeed":
            worker.succeed(None if options.result is None else json.loads(options.result))
        case "fail":
            worker.fail(options.reason, retry=not options.no_retry)
        case "defer":
            when = {"until": options.until, "close": options.close}
            worker.defer(options.delay, reason=options.reason, **when)
        case _:
            worker.hold(options.reason, question=options.question, kind=options.kind)
    return 0


def _run(options: argparse.Namespace) -> int:
    """Run the command as a child in our process group, which ends with us."""
    lock = os.environ.get(names.CLAIM_LOCK, "")
    with Worker() as worker:
        environment = dict(os.environ)
        if options.pass_lock:
            environment[names.CLAIM_LOCK] = lock
        stop = StopSignal()
        try:
            child = subprocess.Popen(options.command, env=environment)
        except OSError as error:
            return cannot_start(options.command[0], error)
        code = follow(child, stop)
        if code == 0 and options.verify is not None and not stop.received:
            return _verify(options.verify, worker, stop)
    return code


def _verify(command: str, worker: Worker, stop: StopSignal) -> int:
    from worker_stub.verify import verify  # noqa: PLC0415 - only those who use it pay for it

    why = verify(command, stop)
    if stop.received:
        return 128 + signal.SIGTERM
    if why is not None:
        worker.fail(why)
    return 0 if why is None else 1


def _run_agent(options: argparse.Namespace) -> int:
    from worker_stub.agent.adapter import Adapter  # noqa: PLC0415
    from worker_stub.agent.kinds import KINDS  # noqa: PLC0415

    adapter = Adapter(
        KINDS[options.kind], check=options.verify, linger=options.linger, limit=options.limit
    )
    return adapter.run(options.command)


def _serve(_: argparse.Namespace) -> int:
    from worker_stub.mcp.server import serve  # noqa: PLC0415

    return serve()


_VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "agent": _run_agent,
    "mcp": _serve,
    "misbehave": misbehave.misbehave,
}


def _print_error(text: str) -> None:
    sys.stderr.write(f"worker_stub: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
