"""Processes that the executor may not signal, as those of `sudo`, and their description."""

from __future__ import annotations

from collections.abc import Iterable

from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import Process
from dispatcher.host.marks import MOST_LISTED, listed


def refusing(kernel: Kernel, processes: Iterable[Process]) -> list[Process]:
    """Return those that live and that this user may not signal: kill(2), EPERM."""
    return [one for one in processes if one.alive and kernel.is_refused_by(one)]


def why_unsignalled(kernel: Kernel, processes: list[Process]) -> str:
    """Return who owns processes that may not be signalled, and the remedy."""
    shown = processes[:MOST_LISTED]
    owners = {_owner(kernel.owner(one.pid)) for one in shown}
    pids = " ".join(str(one.pid) for one in shown)
    verb, them = ("belongs", "it") if len(shown) == 1 else ("belong", "them")
    return (
        f"{_named(processes)} {verb} to {' and '.join(sorted(owners))},"
        f" and the dispatcher may not signal {them}: sudo kill {pids}"
    )


def why_alive(kernel: Kernel, processes: list[Process]) -> str:
    """Return which processes survived SIGKILL, and which of them may not be signalled."""
    refused = refusing(kernel, processes)
    survivors = [one for one in processes if one not in refused]
    reasons = [f"it survived SIGKILL: {_named(survivors)}"] if survivors else []
    if refused:
        reasons.append(why_unsignalled(kernel, refused))
    return "; ".join(reasons)


def _named(processes: list[Process]) -> str:
    return listed([f"{one.name} ({one.pid})" for one in processes])


def _owner(uid: int | None) -> str:
    # Looking a name up may wait for a server (NSS), so only root is named.
    if uid is None:
        return "another user"
    return "root" if uid == 0 else f"uid {uid}"
