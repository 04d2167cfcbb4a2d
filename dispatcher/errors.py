"""The errors that callers catch; each docstring names the handling."""

import errno
from collections.abc import Iterable

from dispatcher.exit_codes import ExitCode

#: The errors of a full disk.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

#: The errors of a host that is full, short of something, or broken: nobody's mistake; they pass.
HOST_TROUBLE = FULL | frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.EROFS}
)


#: The errors of a path in a removed directory.
REMOVED = frozenset({errno.ENOENT, errno.ENOTDIR})


class DispatcherError(Exception):
    """An error that the user can act on: print the message, exit with the code."""

    exit_code = ExitCode.REFUSED


class ConfigError(DispatcherError):
    """The configuration is wrong; name the place."""

    exit_code = ExitCode.CONFIG


class InvalidTask(DispatcherError):
    """The request cannot become a task; name the field."""

    exit_code = ExitCode.USAGE


class NoTask(DispatcherError):
    """No task has this id, or none has it any more."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"no task {task_id}; `dispatcher list` shows those there are")


class QueuePaused(DispatcherError):
    """An operator stopped all claims from a queue; resume it, or wait."""

    def __init__(self, queue: str, reason: str) -> None:
        remedy = f"`dispatcher resume {queue}` ends that"
        super().__init__(f"queue {queue} is paused: {reason}; {remedy}")


class NoLock(DispatcherError):
    """A message for a claim came without its lock; name the options that give it."""

    exit_code = ExitCode.USAGE


class StoreUnavailable(DispatcherError):
    """The store did not answer and nothing was written; keep the workers, try again."""

    exit_code = ExitCode.STORE_UNAVAILABLE


class StoreLocked(StoreUnavailable):
    """Another session held a lock for too long, and nothing was written; go on without its rows."""


class HostTrouble(StoreUnavailable):
    """The host or a filesystem, not the store alone, is in trouble; try again."""

    exit_code = ExitCode.TEMPORARY


class CommitUnknown(DispatcherError):
    """The store may or may not have committed; look before anything is done again."""

    exit_code = ExitCode.COMMIT_UNKNOWN


class StoreUnusable(DispatcherError):
    """The database is not what was left; touch nothing, name the way to restore it."""

    exit_code = ExitCode.CONFIG


class StoreWithheld(StoreUnusable):
    """The store is missing, or this role may not do this; whoever worked before waits for that."""


class StoreRefused(DispatcherError):
    """One operation broke a rule of the schema; roll back, find the offender, go on without it."""


class AlreadyHeld(DispatcherError):
    """Another process holds the lock; name the holder."""

    exit_code = ExitCode.TEMPORARY


def cannot_write(
    failure: str, error: OSError, remedy: str, mistake: type[DispatcherError] = ConfigError
) -> DispatcherError:
    """Return the error of a path that cannot be used.

    `StoreUnavailable` if the host is in trouble: that may pass, and a service manager tries again.
    Otherwise a `mistake` with the `remedy`: a `ConfigError`, unless the user typed the path.
    """
    failure = f"{failure}: {error.strerror}"
    return in_trouble(failure, error.errno) or mistake(f"{failure}; {remedy}")


def cannot_use(failure: str, error: OSError, remedy: str) -> DispatcherError:
    """Return the error of a path in a directory that existed before.

    If that is missing now it was removed: `HostTrouble`, which a new start may find mended.
    Otherwise as `cannot_write`.
    """
    if error.errno in REMOVED:
        return HostTrouble(
            f"{failure}: {error.strerror}; its directory was just removed: try again"
        )
    return cannot_write(failure, error, remedy)


def in_trouble(failure: str, number: int | None) -> StoreUnavailable | None:
    """Return the error for the error number of a host in trouble; None for any other number."""
    if number in FULL:
        return StoreUnavailable(f"{failure}; make room on its disk")
    if number == errno.EROFS:
        return HostTrouble(f"{failure}; mount it for writing, and try again")
    if number in HOST_TROUBLE:
        return HostTrouble(f"{failure}; try again when the host is well")
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the known word nearest to a mistaken one, or ""."""
    from difflib import get_close_matches  # noqa: PLC0415 - only mistakes pay for it

    near = get_close_matches(word, list(map(str, known)), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
