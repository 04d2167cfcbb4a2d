"""A switch with some hosts, on this machine: each is a namespace with a network of its own.

The machine's own network is never touched, and a network ends with the processes in it.
"""

import subprocess
from typing import Self

from tests.system.places import Namespace

#: Nobody has this address: what is sent to it is lost on the way.
_NOBODY = "02:00:0a:4d:ff:ff"


class Network:
    """A context manager; hosts are numbers from 1 to 99."""

    def __init__(self) -> None:
        self._switch = Namespace(network=True)
        self._pids: dict[int, int] = {}
        """The init of each connected host."""

    def __enter__(self) -> Self:
        self._switch.__enter__()
        bridge = "bridge stp_state 0 forward_delay 0"
        self._ip(self._switch.pid, f"link add br0 type {bridge}")
        self._ip(self._switch.pid, "link set br0 up")
        return self

    def __exit__(self, *_: object) -> None:
        self._switch.__exit__()

    @staticmethod
    def address(host: int) -> str:
        return f"10.77.0.{host}"

    def connect(self, host: int, namespace: Namespace) -> None:
        """Connect a host, also one that has come back after its end."""
        switch, pid = self._switch.pid, namespace.pid
        self._ip(switch, f"link add p{host} type veth peer name eth0 netns {pid}")
        self._ip(switch, f"link set p{host} master br0 up")
        self._ip(pid, "link set lo up")
        self._ip(pid, f"link set eth0 address {_card(host)} up")
        self._ip(pid, f"addr add {self.address(host)}/24 dev eth0")
        self._pids[host] = pid
        for other in self._pids.keys() - {host}:  # known for good, so that nobody asks for it
            self._know(host, other, _card(other))
            self._know(other, host, _card(host))

    def disconnect(self, host: int) -> None:
        """Forget a host that is gone with its end of the cable."""
        del self._pids[host]

    def cut(self, host: int) -> None:
        """Lose all that is sent to and from a host, in silence."""
        self._ip(self._switch.pid, f"link set p{host} nomaster")

    def heal(self, host: int) -> None:
        self._ip(self._switch.pid, f"link set p{host} master br0")

    def cut_way(self, sender: int, receiver: int) -> None:
        """Lose what one host sends to another, and nothing else."""
        self._know(sender, receiver, _NOBODY)

    def heal_way(self, sender: int, receiver: int) -> None:
        self._know(sender, receiver, _card(receiver))

    def unplug(self, host: int) -> None:
        """Pull the cable: the host notices."""
        self._ip(self._switch.pid, f"link set p{host} down")

    def plug(self, host: int) -> None:
        self._ip(self._switch.pid, f"link set p{host} up")

    def _know(self, host: int, other: int, card: str) -> None:
        known = f"{self.address(other)} lladdr {card} dev eth0 nud permanent"
        self._ip(self._pids[host], f"neigh replace {known}")

    @staticmethod
    def _ip(pid: int, words: str) -> None:
        command = ["nsenter", f"--target={pid}", "--net", "ip", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {words}: {done.stderr}"


def _card(host: int) -> str:
    return f"02:00:0a:4d:00:{host:02}"
