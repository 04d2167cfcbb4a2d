"""Processes that workers left behind: by birth, by mark, and by name."""

import os
import resource
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.rounds.actor import lives
from tests.rounds.node import Identity


def mark(uid: str) -> int:
    """Return the soft limit of real-time CPU that every process of a run has (protocol 2.10)."""
    return (1 << 62) | (int(uid, 16) & ((1 << 61) - 1))


def behind(token: str, uids: Sequence[str], born: Iterable[Identity]) -> list[str]:
    """Return everybody alive who came of these runs."""
    found = {pid for pid, ticks in born if lives(pid, ticks)}
    marks = {mark(uid) for uid in uids}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            if resource.prlimit(pid, resource.RLIMIT_RTTIME)[0] in marks and not _dead(pid):
                found.add(pid)
            if token.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return [name(pid) for pid in sorted(found)]


def name(pid: int) -> str:
    """Return a process's pid and command line."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        return f"{pid} {words.replace(chr(0), ' ').strip()}"
    return f"{pid} (gone)"


def _dead(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return stat[0] in {"Z", "X"}
