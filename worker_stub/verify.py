"""A command that decides whether a run has done its work."""

from collections.abc import Callable

from worker_stub import names
from worker_stub.child import StopSignal, follow, start_shell

#: Bytes of its output that are kept, and lines of them that are reported.
KEPT, LINES = 16 * 1024, 10


def verify(
    command: str, stop: StopSignal, *, alive: Callable[[], object] = lambda: None
) -> str | None:
    """Run a shell's command; return None if it succeeds, else why not, with its last lines.

    `alive` is called for each piece of its output.
    """
    last = bytearray()

    def seen(piece: bytes) -> None:
        last.extend(piece)
        del last[:-KEPT]
        alive()

    child = start_shell(command)
    code = follow(child, stop, seen=seen)
    if code == 0:
        return None
    lines = bytes(last).decode("utf-8", "replace").replace("\0", " ").splitlines()
    told = " | ".join(line.strip() for line in lines[-LINES:] if line.strip())
    begins = f"not verified: exit code {code}"
    return f"{begins}: {told[-names.MAX_TEXT // 2 :]}" if told else begins
