"""What a forked child inherits of an open database: nothing that it may use, not even close.

The locks stay with the parent, and SQLite in the child believes that it has them: what the child
wrote would be lost or would overwrite what others commit, and its close could delete a WAL that is
in use.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Final, Protocol

from dispatcher.errors import DispatcherError


class Heirloom(Protocol):
    """What a forked child must not use. It compares pids too: a fork in C runs no hook."""

    @property
    def is_inherited(self) -> bool:
        """Whether another process opened it."""

    def forsake(self) -> None:
        """Refuse everything from now on: this process is a fork of the one that opened it."""


_opened: Final[weakref.WeakSet[Heirloom]] = weakref.WeakSet()


def forsake_in_children(opened: Heirloom) -> None:
    """Have something forsaken in each child that this process forks, at its end at the latest."""
    _opened.add(opened)


def keep_for_ever(thing: object) -> None:
    """Keep an object even when the interpreter ends: deleting it would close it."""
    import ctypes  # noqa: PLC0415 - only in a forked child

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def refusal(name: object) -> DispatcherError:
    """Return the error of whoever uses a database that the parent opened."""
    return DispatcherError(
        f"{name} was opened before a fork, by another process than this one (pid {os.getpid()}),"
        " and nothing was written; open a Client in the process that uses it"
    )


def _forsake_inherited() -> None:
    for opened in _opened:
        if opened.is_inherited:
            opened.forsake()


os.register_at_fork(after_in_child=_forsake_inherited)
atexit.register(_forsake_inherited)
