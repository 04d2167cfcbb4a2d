"""The processes below this one: all are found, the dead reaped, strangers left alone."""

import ctypes
import os
import signal
from contextlib import suppress

from tests.eventually import eventually

_PR_SET_CHILD_SUBREAPER = 36


class Family:
    """The processes started below this one since this object was made."""

    def __init__(self) -> None:
        become_subreaper()
        self._strangers = set(below())

    def living(self) -> list[int]:
        """Return every living descendant; reap our dead children."""
        found = []
        for pid in below():
            if pid in self._strangers:
                continue
            state = _state(pid)
            if state not in {"Z", "X", ""}:
                found.append(pid)
            elif pid in _children(os.getpid()):
                bury(pid)
        return found

    def orphans(self) -> set[int]:
        """Return our children, dead or alive: what init would have after the executor's death."""
        return set(_children(os.getpid())) - self._strangers

    def end(self) -> None:
        """SIGKILL all descendants until none is left."""

        def probe() -> None:
            left = self.living()
            for pid in left:
                _kill(pid)
            assert not left

        eventually(probe, every=0.002)

    def expect_none(self) -> None:
        """Wait until none is left; end one that stays, and fail."""

        def probe() -> None:
            assert [] == [f"{pid} {_command(pid)}" for pid in self.living()]

        try:
            eventually(probe, every=0.001)
        finally:
            self.end()


def become_subreaper() -> None:
    """Become the parent of descendants that lose theirs."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury(pid: int) -> None:
    """Reap a child if it is dead and not reaped yet."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _kill(pid: int) -> None:
    """SIGKILL a descendant: it cannot have been reaped by anyone but us or its dead parent."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if pid in below():
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def below() -> list[int]:
    """Return every descendant, dead or alive.

    One whose parent dies meanwhile gets another, perhaps of those that were looked at before.
    """
    found, again = _walk(), _walk()
    while found != again:
        found, again = again, _walk()
    return found


def _walk() -> list[int]:
    found = _children(os.getpid())
    for child in found:  # it grows while we go through it
        found.extend(_children(child))
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return found


def _state(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def _command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as f:
        return f.read().replace("\0", " ").strip()
    return "(gone)"
