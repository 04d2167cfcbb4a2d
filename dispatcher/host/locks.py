"""Locks that the kernel drops when their holder dies, in files that name the holder."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from dispatcher.errors import AlreadyHeld, DispatcherError, cannot_use
from dispatcher.host import owner

#: No link to another file, which would be written to.
LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

#: The file, in its state directory and in its runtime directory, that an executor locks.
EXECUTOR_LOCK = "executor.lock"

#: The file in its state directory that a daemon locks.
DAEMON_LOCK = "lock"


class FileLock:
    """A lock that is ours until `close`, or the end of the process; with None it locks nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Release the lock. Idempotent. The file stays: removing it would make two locks."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_at(self, path: Path) -> bool:
        """Whether the locked file is still the one at a path."""
        if self._descriptor is None:
            return True
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False


def lock_file(path: Path, what: str, *, holder: str = "") -> FileLock:
    """Lock a file, created if missing, and write our pid, `holder` and our host into it.

    Does not wait. Raises `AlreadyHeld`, which names `what` and its holder; `ConfigError` when the
    file cannot be written, `StoreUnavailable` when its disk is full, `HostTrouble` when its
    directory was removed.
    """
    try:
        descriptor = os.open(path, LOCK_FLAGS, 0o600)
    except OSError as error:
        raise _cannot_lock(what, path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = _holder_in(os.pread(descriptor, 4096, 0).decode(errors="replace"))
        os.close(descriptor)
        raise AlreadyHeld(
            f"{what} is in use by {name} (lock {path}); stop that one, or configure another place"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise _cannot_lock(what, path, error) from None
    # The lock holds also where a full disk takes no name.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        name = ", ".join(filter(None, (f"pid {os.getpid()}", holder)))
        os.pwrite(descriptor, f"{name}\nhost {os.uname().nodename}".encode(), 0)
    return FileLock(descriptor)


def try_directory_lock(directory: Path) -> FileLock | None:
    """Lock an existing directory; None if another process has it locked.

    A directory that cannot be locked, as on some filesystems, keeps nobody out.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return FileLock(None)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        return FileLock(None)
    return FileLock(descriptor)


def holder_of(path: Path) -> int | None:
    """Return the pid of the process that holds a file's lock; None: nobody visible does.

    The file names it, and only the holder keeps the file open. Trying the lock instead could turn
    away a process that takes it at the same moment.
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


def _holder_in(content: str) -> str:
    """Return the holder that a lock file names, with its host if that is not ours: a container."""
    name, _, host = content.partition("\nhost ")
    elsewhere = f", on host {host}" if host and host != os.uname().nodename else ""
    return f"{name or 'another process'}{elsewhere}"


def _cannot_lock(what: str, path: Path, error: OSError) -> DispatcherError:
    remedy = "this user must be able to write there"
    if isinstance(error, PermissionError):
        remedy = owner.remedy_if_foreign(path) or remedy
    return cannot_use(f"cannot lock {what}: {path}", error, remedy)
