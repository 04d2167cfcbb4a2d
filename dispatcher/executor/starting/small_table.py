"""Spawning with a small table of descriptors, where this process has a large one.

A new process gets a copy of the table of the thread that spawns it, and closes all of it before its
program begins: both grow with the table, by 0.2 us a descriptor. So where there are many the
spawning thread is one whose table has none of them. It does nothing else, and its caller waits.
"""

import ctypes
import gc
import os
import signal
import socket
import threading
from array import array
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from dispatcher.host import inheritance

#: CLOSE_RANGE_UNSHARE, and the last descriptor that there may be: close_range(2).
_UNSHARE = 2
_LAST = 2**32 - 1

#: Bytes of the descriptors that are passed: at most stdin, output and parents.
_ROOM = socket.CMSG_LEN(3 * array("i").itemsize)

#: Starts a process with its stdin, its output, and what else it reads; returns its pid. Raises
#: OSError and ValueError.
Spawn = Callable[..., int]


class SmallTable:
    """A thread with a table of descriptors of its own, made when it is first needed.

    The processes that it starts are this process's children as any other, but listed under it.
    """

    def __init__(self) -> None:
        self._ours: socket.socket | None = None
        """Passes descriptors to the thread, and wakes it; None: there is no thread."""
        self._possible = True
        self._spawn: Spawn | None = None
        self._results: SimpleQueue[int | Exception] = SimpleQueue()
        """Of each start its pid, or why there is none; of the thread itself 1 or 0."""

    def close(self) -> None:
        """End the thread, and wait for that."""
        if self._ours is not None:
            self._ours.close()
            self._ours = None
            self._results.get()

    def is_there(self) -> bool:
        """Make it, if that was not done; False if it cannot be had.

        So it is with Linux before 5.9, a C library without close_range(3), and for the moment where
        the host is short of threads or descriptors.
        """
        if self._ours is None and self._possible:
            with suppress(OSError, RuntimeError):
                self._begin()
        return self._ours is not None

    def spawn(self, spawn: Spawn, *descriptors: int) -> int:
        """Return what `spawn` returns or raises, called with its descriptors in the small table."""
        assert self._ours is not None
        self._spawn = spawn
        # Garbage that holds a descriptor would be collected by the thread, and closed in its table.
        gc.disable()
        try:
            # They share their open descriptions with ours: the lock of the output is one of them.
            socket.send_fds(self._ours, [b"\0"], descriptors)
            result = self._results.get()
        finally:
            gc.enable()
        if isinstance(result, Exception):
            raise result
        return result

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                threading.Thread(target=self._work, args=[theirs.fileno()], daemon=True).start()
                self._possible = bool(self._results.get())
            except RuntimeError:
                ours.close()
                raise
        if self._possible:
            self._ours = ours
        else:
            ours.close()

    def _work(self, number: int) -> None:
        # Signals are the main thread's: their handler writes to a descriptor of its table.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if _leave_table(number):
            self._results.put(1)
            with socket.socket(fileno=number) as theirs:
                while result := self._next(theirs):
                    self._results.put(result)
        self._results.put(0)

    def _next(self, theirs: socket.socket) -> int | Exception:
        """Return the result of the next start; 0 when there will be none."""
        # Not by recv_fds(), whose descriptors would be inherited.
        data, more, _, _ = theirs.recvmsg(1, _ROOM, socket.MSG_CMSG_CLOEXEC)
        passed = array("i", b"".join(content for _, _, content in more))
        try:
            if not data or self._spawn is None:
                return 0
            return self._spawn(*passed)
        except Exception as error:  # noqa: BLE001 - raised where the start was requested
            return error
        finally:
            for descriptor in passed:
                os.close(descriptor)


def _leave_table(kept: int) -> bool:
    """Give this thread a table with the standard descriptors and one more; False: it cannot."""
    with suppress(AttributeError):
        last = ctypes.c_uint(_LAST)
        if ctypes.CDLL(None).close_range(ctypes.c_uint(kept + 1), last, _UNSHARE) == 0:
            os.closerange(inheritance.STDERR + 1, kept)
            return True
    return False
