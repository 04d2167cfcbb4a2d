"""A PostgreSQL server on a host of its own, and its replica on another."""

import os
import pwd
import subprocess
from collections.abc import Iterable
from pathlib import Path

from dispatcher.demo.server import UNPRIVILEGED
from tests.postgres import SETTINGS, Postgres
from tests.system.hosts.network import Network
from tests.system.places import Namespace

PORT = 5432


class NetworkServer(Postgres):
    """It also listens at its host's address."""

    def __init__(self, host: int, namespace: Namespace, network: Network) -> None:
        super().__init__()
        self.host, self._namespace, self._network = host, namespace, network
        self.address = network.address(host)

    def let_in(self) -> None:
        """Let every host of the network in."""
        with (self.directory / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/24 trust\n")

    def _spawn(self) -> None:
        user = pwd.getpwnam(UNPRIVILEGED)
        enter = ("nsenter", f"--target={self._namespace.pid}", "--net")
        become = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        settings = {**SETTINGS, "listen_addresses": self.address, "port": str(PORT)}
        options = [part for one in settings.items() for part in ("-c", "=".join(one))]
        command: list[str | Path] = [*enter, *become, self.programs / "postgres"]
        with (self.directory / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*command, "-D", "data", "-k", self.directory, *options],
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                stdout=log,
                stderr=log,
            )

    def end_sessions(self, address: str) -> None:
        """End the sessions of a host: its next packet is answered by a reset."""
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE client_addr = '{address}'"
        )


def url_of(addresses: Iterable[str]) -> str:
    """Return the URL of the server at one of these addresses that takes writes."""
    return f"postgresql://postgres@{','.join(addresses)}/postgres"
