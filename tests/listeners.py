"""Listeners of nodes, and what they are trusted by."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dispatcher.config.peer_settings import PeersSection
from dispatcher.peers.contract import ListenerReport
from dispatcher.peers.listener import PROOF_WITHIN, OutputServer

#: `node.crt` for localhost, signed by `authority.crt`; `other.crt`, signed by nobody. They last
#: until 2126, and guard nothing.
CERTIFICATES = Path(__file__).parent / "certificates"

TOKEN = "0123456789abcdef"

UID = "0123456789abcdef0123456789abcdef"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def peers(directory: Path, **keys: object) -> PeersSection:
    """Return the section of a node that listens on a loopback address."""
    file = directory / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    given = {"listen": f"localhost:{free_port()}", "token_file": str(file), **keys}
    return PeersSection(**given)  # type: ignore[arg-type]


def certified(name: str = "node", authority: str = "authority") -> dict[str, str]:
    """Return the keys of a node that has a certificate, and of whom it trusts."""
    files = {"certificate": f"{name}.crt", "key": f"{name}.key", "authority": f"{authority}.crt"}
    return {key: str(CERTIFICATES / file) for key, file in files.items()}


@contextmanager
def serving(
    section: PeersSection,
    outputs: Path,
    *,
    budget: int = 1 << 20,
    report: Callable[[ListenerReport], object] = bool,
    proof_within: float = PROOF_WITHIN,
) -> Iterator[OutputServer]:
    """Let a thread of this process be the listener while the block lasts."""
    server = OutputServer(
        section,
        output_dir=str(outputs),
        budget=budget,
        report=report,
        proof_within=proof_within,
    )
    lifeline, end = os.pipe()
    with open(lifeline, "rb") as reading:
        thread = threading.Thread(target=server.serve, args=(reading,))
        thread.start()
        try:
            yield server
        finally:
            os.close(end)
            thread.join()
