"""Locks that the kernel drops when their holder dies, and that name who holds them."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dispatcher import owners
from dispatcher.errors import AlreadyHeld, DispatcherError, cannot_write


class Held:
    """A lock that is ours until `release`, or the end of the process; on None it locks nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have it. Idempotent. The file stays: removing it would make two locks."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def hold(path: Path, what: str, *, holder: str = "") -> Held:
    """Lock a file, made if missing, and write into it who we are: our pid and `holder`.

    Raises `AlreadyHeld`, which names `what` and its holder, without waiting; `ConfigError` when
    the file cannot be written, `StoreUnavailable` when its disk is full.
    """
    try:
        descriptor = owners.opened(str(path), os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_lock(what, path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = os.pread(descriptor, 4096, 0).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise AlreadyHeld(
            f"{what} is in use by {name} (lock {path}); stop that one, or configure another place"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise _cannot_lock(what, path, error) from None
    # The lock holds also where a full disk forgets the name.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        name = ", ".join(filter(None, (f"pid {os.getpid()}", holder)))
        os.pwrite(descriptor, name.encode(), 0)
    return Held(descriptor)


def _cannot_lock(what: str, path: Path, error: OSError) -> DispatcherError:
    remedy = "this user must be able to write there"
    return cannot_write(f"cannot lock {what}: {path}", error, remedy)
