"""What may happen to a node, to its way to the server, and to the server."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.eventually import let_pass
from tests.system.hosts.lab import GRACE, LIMIT, Lab, Node

#: Seconds after which runs that nobody confirms are over, and no other node has them yet.
ENDED = LIMIT + 2 + GRACE + 1

#: Seconds that runs outlive.
BRIEF = LIMIT / 4


@dataclass(frozen=True)
class Fault:
    happens: Callable[[Lab, Node], AbstractContextManager[None]]
    silences: bool = False
    """Whether the node cannot confirm its claims: if it lasts, others take them."""
    lasts: float = BRIEF
    """Seconds, if it silences nobody."""
    costs: bool = False
    """Whether runs of every node may be orphaned by it."""


@contextmanager
def _cut(lab: Lab, node: Node) -> Iterator[None]:
    lab.network.cut(node.number)
    yield
    lab.network.heal(node.number)


@contextmanager
def _cut_there(lab: Lab, node: Node) -> Iterator[None]:
    lab.network.cut_way(node.number, lab.server.host)
    yield
    lab.network.heal_way(node.number, lab.server.host)


@contextmanager
def _cut_back(lab: Lab, node: Node) -> Iterator[None]:
    lab.network.cut_way(lab.server.host, node.number)
    yield
    lab.network.heal_way(lab.server.host, node.number)


@contextmanager
def _unplugged(lab: Lab, node: Node) -> Iterator[None]:
    lab.network.unplug(node.number)
    yield
    lab.network.plug(node.number)


@contextmanager
def _reset(lab: Lab, node: Node) -> Iterator[None]:
    lab.network.cut(node.number)
    lab.server.end_sessions(lab.network.address(node.number))
    lab.network.heal(node.number)
    yield


@contextmanager
def _powerless(lab: Lab, node: Node) -> Iterator[None]:
    node.lose_power()
    yield
    node.boot()


@contextmanager
def _daemon_frozen(lab: Lab, node: Node) -> Iterator[None]:
    with node.stopped("run"):
        yield


@contextmanager
def _executor_frozen(lab: Lab, node: Node) -> Iterator[None]:
    with node.stopped("dispatcher.executor"):
        yield


@contextmanager
def _all_frozen(lab: Lab, node: Node) -> Iterator[None]:
    with node.stopped():
        yield


@contextmanager
def _server_restarted(lab: Lab, node: Node) -> Iterator[None]:
    lab.server.restart()
    yield


@contextmanager
def _server_crashed(lab: Lab, node: Node) -> Iterator[None]:
    lab.server.restart(signal.SIGQUIT)
    yield


@contextmanager
def _server_frozen(lab: Lab, node: Node) -> Iterator[None]:
    with lab.server.frozen():
        yield


FAULTS: Mapping[str, Fault] = {
    "cut": Fault(_cut, silences=True),
    "cut there": Fault(_cut_there, silences=True),
    "cut back": Fault(_cut_back, silences=True),
    "cable pulled": Fault(_unplugged, silences=True),
    "reset": Fault(_reset),
    "plug pulled": Fault(_powerless, silences=True),
    "daemon frozen": Fault(_daemon_frozen, silences=True),
    "executor frozen": Fault(_executor_frozen, lasts=ENDED),
    # For longer no host could keep the promise: its workers go on before anything can end them.
    "all frozen": Fault(_all_frozen, lasts=ENDED),
    "server restarted": Fault(_server_restarted),
    "server crashed": Fault(_server_crashed),
    "server frozen": Fault(_server_frozen, lasts=ENDED, costs=True),
}


def play(lab: Lab, name: str, node: Node, *, brief: bool, until_taken: Callable[[], None]) -> None:
    """Let a fault happen to a node, or to the server, and be over."""
    fault = FAULTS[name]
    with fault.happens(lab, node):
        if brief:
            let_pass(BRIEF)
        elif fault.silences:
            until_taken()
        else:
            let_pass(fault.lasts)
