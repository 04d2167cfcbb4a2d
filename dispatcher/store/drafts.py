"""Databases made beside their place, and put there once they are whole.

A draft lies in a directory of its own, which its maker keeps locked: so what a killed maker left is
told from what is being made. Not the file is locked, since closing a descriptor of a database drops
SQLite's locks.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from dispatcher.errors import DispatcherError, StoreUnavailable, StoreUnusable, cannot_write
from dispatcher.host import files
from dispatcher.store.names import DRAFT, WHOLE, beside

_DRAFT = re.compile(rf"{re.escape(DRAFT)}[0-9a-f]{{8}}$")

#: A second name that a draft gets and loses, where it needs one in the end.
_PROBE: Final = "link"


@contextmanager
def draft_of(file: Path) -> Iterator[Path]:
    """Give an empty private file on the disk of another; whatever is left of it goes in the end.

    Raises OSError when it cannot be made; no other error names it.
    """
    remove_abandoned(file.parent)
    directory, lock = _directory(file)
    draft = directory / WHOLE
    try:
        draft.touch(mode=0o600, exist_ok=False)
        yield draft
    except (StoreUnavailable, StoreUnusable) as error:
        if str(draft) not in str(error):
            raise
        raise type(error)(str(error).replace(str(draft), str(file))) from error
    finally:
        with suppress(OSError):
            _remove(directory)
        os.close(lock)


def _directory(file: Path) -> tuple[Path, int]:
    """Make a draft's directory; return it and the descriptor that locks it."""
    while True:
        directory = file.with_name(f"{file.name}{DRAFT}{os.urandom(4).hex()}")
        directory.mkdir(mode=0o700)
        descriptor = -1
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # no locks on this filesystem: then nobody removes it either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if directory.exists():
                return directory, descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            with suppress(OSError):
                directory.rmdir()
            if descriptor >= 0:
                os.close(descriptor)
            raise
        # Before it was locked, somebody took it for abandoned.
        if descriptor >= 0:
            os.close(descriptor)


def remove_abandoned(parent: Path) -> None:
    """Remove the drafts in a directory whose makers are gone, as far as this user may."""
    with suppress(OSError):
        for entry in os.scandir(parent):
            if _DRAFT.search(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(directory)
    finally:
        os.close(descriptor)


def _remove(directory: Path) -> None:
    draft = directory / WHOLE
    for name in (draft, *beside(draft), directory / _PROBE):
        name.unlink(missing_ok=True)
    directory.rmdir()


@contextmanager
def reported_draft_of(file: Path) -> Iterator[Path]:
    """Give a `draft_of` a file; one that cannot be made has the error of `written`."""
    with ExitStack() as stack:
        with written(file):
            draft = stack.enter_context(draft_of(file))
        yield draft


@contextmanager
def written(file: Path) -> Iterator[None]:
    """Turn errors of the kernel into those of a file that cannot be made, but `FileExistsError`."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        told = f"cannot write {file.name} in {file.parent}"
        remedy = "this needs a directory that this user may write"
        raise cannot_write(told, error, remedy, DispatcherError) from error


def finish(draft: Path, file: Path) -> None:
    """Bring a draft that nobody has open to the disk, and see that `name_finished` can follow."""
    with written(file):
        files.sync(draft)
    probe = draft.with_name(_PROBE)
    try:
        probe.hardlink_to(draft)
        probe.unlink()
    except OSError as error:
        raise _no_link(file, error) from error


def name_finished(draft: Path, file: Path) -> None:
    """Give a finished draft its name. Raises `FileExistsError` when something has it."""
    try:
        file.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError as error:
        raise _no_link(file, error) from error
    _sync_directory_of(file)


def replace(draft: Path, file: Path) -> None:
    """Bring a draft that nobody has open to the disk, and give it the name of what it replaces."""
    with written(file):
        files.sync(draft)
        draft.rename(file)
    _sync_directory_of(file)


def _no_link(file: Path, error: OSError) -> DispatcherError:
    told = f"cannot make {file}, as no hard link can be made there"
    remedy = "keep the database on a filesystem that has them"
    return cannot_write(told, error, remedy, StoreUnusable)


def _sync_directory_of(file: Path) -> None:
    try:
        files.sync(file.parent)
    except OSError as error:
        raise StoreUnavailable(
            f"{file} is in its place, but may be gone after a power cut: {error.strerror};"
            " see that its disk is sound"
        ) from error
