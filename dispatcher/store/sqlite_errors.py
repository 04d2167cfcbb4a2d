"""What SQLite's errors mean to the store, and what the user can do about them."""

from __future__ import annotations

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

# SQLite's result codes, by what they ask for.
BUSY: Final = frozenset({5, 6})  # BUSY, LOCKED
_FAILED: Final = frozenset({7, 9, 10, 13, 15})  # NOMEM, INTERRUPT, IOERR, FULL, PROTOCOL
REFUSED: Final = frozenset({18, 19, 20, 25})  # TOOBIG, CONSTRAINT, MISMATCH, RANGE
_DENIED: Final = frozenset({3, 8, 14, 23})  # PERM, READONLY, CANTOPEN, AUTH
_ALTERED: Final = frozenset({1, 11, 17, 26})  # ERROR, CORRUPT, SCHEMA, NOTADB
_CANTOPEN: Final = 14
FULL: Final = 13

#: Bytes of free space below which a failure is put down to a full disk; a WAL's index grows by
#: 32 KiB.
LEAST_ROOM: Final = 128 * 1024

#: Open files that a command may need; a lower limit is likely to be what a failure comes from.
_FEW_DESCRIPTORS: Final = 32

# Raised by the binding of a value that no column can hold.
_BAD_VALUES: Final = (OverflowError, UnicodeEncodeError)
ERRORS: Final = (dbapi2.Error, *_BAD_VALUES)


def code_of(error: Exception) -> int | None:
    """Return SQLite's result code of an error; None if SQLite never saw the statement."""
    return getattr(error, "sqlite_errorcode", None)


def translated(error: Exception, path: Path | None, patience: float) -> DispatcherError:
    """Return the store's error for one of `ERRORS`."""
    code, name = code_of(error), path or "the database in memory"
    if code in BUSY:
        return StoreUnavailable(
            f"{name}: another process has held the write lock for more than {patience:g} s; "
            f"try again, or look for it: fuser -v {name}"
        )
    # With permission to open the files, it was descriptors or memory that wanted.
    if code in _FAILED or (code == _CANTOPEN and (path is None or is_writable(path))):
        told = f"{name}: {error}"
        return _on_read_only(told, path) or StoreUnavailable(f"{told}; {_remedy(path)}")
    if code in _DENIED:
        return denied(path, error)
    if code in _ALTERED:
        return StoreUnusable(
            f"{name} is damaged, or no database of dispatcher ({error}); "
            "restore it from a backup, or let store.url name another file"
        )
    return StoreRefused(_bad_value(error))


def _bad_value(error: Exception) -> str:
    """Return what is wrong with a value that SQLite refused, or was not even asked."""
    if isinstance(error, UnicodeEncodeError):
        return f"a text {in_words(error)}"
    if isinstance(error, OverflowError):
        return "a number is too large: no more is stored than 64 bits hold"
    return str(error)


def _remedy(path: Path | None) -> str:
    """Say what to do about a failure whose cause SQLite does not tell, as far as anybody can."""
    with suppress(OSError):
        room = os.statvfs(path.parent if path is not None else "/")
        # What SQLite calls an I/O error is often a file beside the database that could not grow.
        if path is not None and (room.f_bavail * room.f_frsize < LEAST_ROOM or not room.f_favail):
            return "make room on its disk, which is full"
    return too_few_files() or "is there room on its disk, and memory?"


def too_few_files() -> str | None:
    """Return what to do where the limit of open files is what SQLite fails of; None: it is not."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _FEW_DESCRIPTORS:
        return f"raise the limit of open files, which is {limit}: ulimit -n 1024"
    return None


def denied(path: Path | None, why: object) -> DispatcherError:
    """Return the error of a database that this user may not write, or now nobody."""
    told = f"{path or 'the database in memory'} cannot be written ({why})"
    remedy = "give this user write permission on the file and its directory"
    if path is not None:
        remedy = owner.of_another(path) or remedy
    return _on_read_only(told, path) or StoreUnusable(f"{told}; {remedy}")


def unseen(path: Path | None, error: OSError) -> DispatcherError:
    """Return the error of a database of which nobody can tell whether it is still there."""
    told = f"{path}: {error.strerror}"
    remedy = "give this user permission to enter its directory"
    if path is not None:
        remedy = owner.of_another(path) or remedy
    return in_trouble(told, error.errno) or StoreUnusable(f"{told}; {remedy}")


def _on_read_only(told: str, path: Path | None) -> StoreUnavailable | None:
    """Return the error of a database whose filesystem takes no writes; None where it does."""
    with suppress(OSError):
        if path is not None and os.statvfs(path.resolve().parent).f_flag & os.ST_RDONLY:
            return in_trouble(f"{told}: {os.strerror(errno.EROFS)}", errno.EROFS)
    return None


def is_writable(path: Path) -> bool:
    """Tell whether this user may write a database file, and make files beside it."""
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True) and os.access(
        path.parent, os.W_OK | os.X_OK, effective_ids=True
    )
