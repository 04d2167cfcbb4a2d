"""Keeps a forked child from the database connections that it inherits, even from closing them.

The locks stay with the parent, but SQLite in the child assumes that it holds them: its writes would
be lost or would overwrite others' commits, and its close could delete a WAL in use.
"""

import atexit
import os
import weakref
from typing import Final, Protocol

from dispatcher.errors import DispatcherError


class Inheritable(Protocol):
    """An object that a forked child must not use. Compares pids too: a fork in C runs no hook."""

    @property
    def is_inherited(self) -> bool:
        """Whether another process opened it."""

    def disable(self) -> None:
        """Refuse all use from now on: this process is a fork of the one that opened it."""


_opened: Final[weakref.WeakSet[Inheritable]] = weakref.WeakSet()


def disable_in_children(opened: Inheritable) -> None:
    """Call `disable` in each child that this process forks, at its exit at the latest."""
    _opened.add(opened)


def leak(thing: object) -> None:
    """Keep an object beyond the end of the interpreter, whose deletion would close it."""
    import ctypes  # noqa: PLC0415 - only in a forked child

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def refusal(name: object) -> DispatcherError:
    """Return the error for the use of a database that a parent process opened."""
    return DispatcherError(
        f"{name} was opened before a fork, by another process than this one (pid {os.getpid()}),"
        " and nothing was written; open a Client in the process that uses it"
    )


def _disable_inherited() -> None:
    for opened in _opened:
        if opened.is_inherited:
            opened.disable()


os.register_at_fork(after_in_child=_disable_inherited)
atexit.register(_disable_inherited)
