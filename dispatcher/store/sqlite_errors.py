"""SQLite's errors as errors of the store, with remedies for the user."""

import errno
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from pysqlite3 import dbapi2

from dispatcher.complaints import in_words
from dispatcher.errors import (
    DispatcherError,
    StoreRefused,
    StoreUnavailable,
    StoreUnusable,
    in_trouble,
)
from dispatcher.host import owner

# SQLite's result codes, by what to do about them.
BUSY: Final = frozenset({5, 6})  # BUSY, LOCKED
_FAILED: Final = frozenset({7, 9, 10, 13, 15})  # NOMEM, INTERRUPT, IOERR, FULL, PROTOCOL
REFUSED: Final = frozenset({18, 19, 20, 25})  # TOOBIG, CONSTRAINT, MISMATCH, RANGE
_DENIED: Final = frozenset({3, 8, 14, 23})  # PERM, READONLY, CANTOPEN, AUTH
_ALTERED: Final = frozenset({1, 11, 17, 26})  # ERROR, CORRUPT, SCHEMA, NOTADB
_INTERRUPT: Final = 9
_CANTOPEN: Final = 14
FULL: Final = 13

#: With fewer free bytes, a full disk is taken for the cause: a WAL's index grows by 32 KiB.
LEAST_ROOM: Final = 128 * 1024

#: Open files that a command may need; a lower limit is taken for the cause of a failure.
_FEW_DESCRIPTORS: Final = 32

# Raised for a value that no column can hold.
_BAD_VALUES: Final = (OverflowError, UnicodeEncodeError)
ERRORS: Final = (dbapi2.Error, *_BAD_VALUES)


def code_of(error: Exception) -> int | None:
    """Return SQLite's result code; None if the driver raised the error."""
    return getattr(error, "sqlite_errorcode", None)


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether a function that SQLite called has raised."""
    return isinstance(error, dbapi2.Error) and code_of(error) == _INTERRUPT


def is_of_statement(error: Exception) -> bool:
    """Return whether a statement is wrong in itself: a bug, and no damage of the database."""
    text = str(error)
    is_wrong = "syntax error" in text or text == "incomplete input"
    return is_wrong and code_of(error) == dbapi2.SQLITE_ERROR


def translated(error: Exception, path: Path | None, patience: float) -> DispatcherError:
    """Return the store's error for one of `ERRORS`."""
    code, name = code_of(error), path or "the database in memory"
    if code in BUSY:
        return StoreUnavailable(
            f"{name}: another process has held the write lock for more than {patience:g} s; "
            f"try again, or look for it: fuser -v {name}"
        )
    # A user with permission to open the files lacked descriptors or memory.
    if code in _FAILED or (code == _CANTOPEN and (path is None or is_writable(path))):
        problem = f"{name}: {error}"
        return _on_read_only(problem, path) or StoreUnavailable(f"{problem}; {_remedy(path)}")
    if code in _DENIED:
        return denied(path, error)
    if code in _ALTERED:
        return StoreUnusable(
            f"{name} is damaged, or not a dispatcher database ({error}); "
            "restore it from a backup, or let store.url name another file"
        )
    return StoreRefused(_bad_value(error))


def _bad_value(error: Exception) -> str:
    """Describe a value that SQLite or the driver refused."""
    if isinstance(error, UnicodeEncodeError):
        return f"a text {in_words(error)}"
    if isinstance(error, OverflowError):
        return "a number is too large: no more is stored than 64 bits hold"
    return str(error)


def _remedy(path: Path | None) -> str:
    """Return the likely remedy for a failure without a known cause."""
    with suppress(OSError):
        room = os.statvfs(path.parent if path is not None else "/")
        # An I/O error often means that a file next to the database could not grow.
        if path is not None and (room.f_bavail * room.f_frsize < LEAST_ROOM or not room.f_favail):
            return "make room on its disk, which is full"
    return too_few_files() or "is there room on its disk, and memory?"


def too_few_files() -> str | None:
    """Return the remedy for too low a limit of open files; None if it is high enough."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _FEW_DESCRIPTORS:
        return f"raise the limit of open files, which is {limit}: ulimit -n 1024"
    return None


def denied(path: Path | None, why: object) -> DispatcherError:
    """Return the error of a database that this user cannot write."""
    problem = f"{path or 'the database in memory'} cannot be written ({why})"
    remedy = "give this user write permission on the file and its directory"
    if path is not None:
        remedy = owner.remedy_if_foreign(path) or remedy
    return _on_read_only(problem, path) or StoreUnusable(f"{problem}; {remedy}")


def unseen(path: Path | None, error: OSError) -> DispatcherError:
    """Return the error of a database whose existence cannot be checked."""
    problem = f"{path}: {error.strerror}"
    remedy = "give this user permission to enter its directory"
    if path is not None:
        remedy = owner.remedy_if_foreign(path) or remedy
    return in_trouble(problem, error.errno) or StoreUnusable(f"{problem}; {remedy}")


def _on_read_only(problem: str, path: Path | None) -> StoreUnavailable | None:
    """Return the error of a database on a read-only filesystem; None if it is writable."""
    with suppress(OSError):
        if path is not None and os.statvfs(path.resolve().parent).f_flag & os.ST_RDONLY:
            return in_trouble(f"{problem}: {os.strerror(errno.EROFS)}", errno.EROFS)
    return None


def is_writable(path: Path) -> bool:
    """Return whether this user may write a database file and create files next to it."""
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True) and os.access(
        path.parent, os.W_OK | os.X_OK, effective_ids=True
    )
