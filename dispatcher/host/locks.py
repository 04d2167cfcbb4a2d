"""Locks that the kernel drops when their holder dies, and that name who holds them."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dispatcher.errors import AlreadyHeld, DispatcherError, cannot_use
from dispatcher.host import owner

#: No link to another file, which would be written to.
LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

#: The file, in its state directory and in its runtime directory, that an executor locks.
EXECUTOR_LOCK = "executor.lock"


#: The file in its state directory that a daemon locks.
DAEMON_LOCK = "lock"


def tried(directory: Path) -> Held | None:
    """Lock a directory, which is there; None if somebody else has it locked.

    Where it cannot be locked at all, as on some filesystems, nothing is: nobody is kept out.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Held(None)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        return Held(None)
    return Held(descriptor)


class Held:
    """A lock that is ours until `release`, or the end of the process; on None it locks nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have it. Idempotent. The file stays: removing it would make two locks."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_at(self, path: Path) -> bool:
        """Whether the file at a path is the one that is locked, and not another in its place."""
        if self._descriptor is None:
            return True
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

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
    """Lock a file, made if missing, and write into it who we are: our pid, `holder` and our host.

    Raises `AlreadyHeld`, which names `what` and its holder, without waiting; `ConfigError` when
    the file cannot be written, `StoreUnavailable` when its disk is full, `HostTrouble` when its
    directory was removed.
    """
    try:
        descriptor = os.open(path, LOCK_FLAGS, 0o600)
    except OSError as error:
        raise _cannot_lock(what, path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = _named(os.pread(descriptor, 4096, 0).decode(errors="replace"))
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
        os.pwrite(descriptor, f"{name}\nhost {os.uname().nodename}".encode(), 0)
    return Held(descriptor)


def holder(path: Path) -> int | None:
    """Return the pid of the process that holds a lock; None: nobody does, or it cannot be seen.

    The file names it, and only the holder keeps the file open. To try the lock instead could turn
    away a process that takes it in the same moment.
    """
    with suppress(OSError, ValueError):
        first = path.read_text("utf-8", "replace").partition("\n")[0]
        pid = int(first.removeprefix("pid ").partition(",")[0])
        locked = path.stat()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.path.samestat(descriptor.stat(), locked):
                    return pid
    return None


def _named(said: str) -> str:
    """Return who holds a lock, with the name of its host where that is not ours: a container's."""
    name, _, host = said.partition("\nhost ")
    elsewhere = f", on host {host}" if host and host != os.uname().nodename else ""
    return f"{name or 'another process'}{elsewhere}"


def _cannot_lock(what: str, path: Path, error: OSError) -> DispatcherError:
    remedy = "this user must be able to write there"
    if isinstance(error, PermissionError):
        remedy = owner.of_another(path) or remedy
    return cannot_use(f"cannot lock {what}: {path}", error, remedy)
