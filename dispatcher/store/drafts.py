"""Builds databases next to their place, and moves them there when they are complete.

A draft is in a directory of its own, which its maker locks, so that abandoned drafts are
recognized. The file itself is not locked: closing a descriptor of a database drops SQLite's locks.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from dispatcher.errors import DispatcherError, StoreUnavailable, StoreUnusable, cannot_write
from dispatcher.host import files
from dispatcher.store.names import DRAFT, WHOLE, side_files

_DRAFT = re.compile(rf"{re.escape(DRAFT)}[0-9a-f]{{8}}$")

#: A hard link to a draft, made and removed to test whether links work.
_PROBE: Final = "link"


@contextmanager
def draft_of(file: Path) -> Iterator[Path]:
    """Give an empty private file on the disk of another; remove at the end what is left of it.

    Raises OSError if it cannot be created. The store's errors name `file` instead of the draft.
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
    """Create a draft's directory; return it and the descriptor that locks it."""
    while True:
        directory = file.with_name(f"{file.name}{DRAFT}{os.urandom(4).hex()}")
        directory.mkdir(mode=0o700)
        descriptor = -1
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # without locks nobody removes it either
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
        # Another process took it for abandoned before it was locked.
        if descriptor >= 0:
            os.close(descriptor)


def remove_abandoned(parent: Path) -> None:
    """Remove the drafts in a directory whose makers are gone, if this user may."""
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
    for name in (draft, *side_files(draft), directory / _PROBE):
        name.unlink(missing_ok=True)
    directory.rmdir()


@contextmanager
def reported_draft_of(file: Path) -> Iterator[Path]:
    """Give a `draft_of` a file; report one that cannot be created like `written`."""
    with ExitStack() as stack:
        with written(file):
            draft = stack.enter_context(draft_of(file))
        yield draft


@contextmanager
def written(file: Path) -> Iterator[None]:
    """Turn an OSError, but not `FileExistsError`, into the error of a file that is not writable."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        problem = f"cannot write {file.name} in {file.parent}"
        remedy = "this needs a directory that this user may write"
        raise cannot_write(problem, error, remedy, DispatcherError) from error


def finish(draft: Path, file: Path) -> None:
    """Sync a closed draft to the disk, and check that `name_finished` can name it."""
    with written(file):
        files.sync(draft)
    probe = draft.with_name(_PROBE)
    try:
        probe.hardlink_to(draft)
        probe.unlink()
    except OSError as error:
        raise _no_link(file, error) from error


def name_finished(draft: Path, file: Path) -> None:
    """Give a finished draft its name. Raises `FileExistsError` if the name is taken."""
    try:
        file.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError as error:
        raise _no_link(file, error) from error
    _sync_directory_of(file)


def replace(draft: Path, file: Path) -> None:
    """Sync a closed draft to the disk, and rename it over the file that it replaces."""
    with written(file):
        files.sync(draft)
        draft.rename(file)
    _sync_directory_of(file)


def _no_link(file: Path, error: OSError) -> DispatcherError:
    problem = f"cannot make {file}, as no hard link can be made there"
    remedy = "keep the database on a filesystem that has them"
    return cannot_write(problem, error, remedy, StoreUnusable)


def _sync_directory_of(file: Path) -> None:
    try:
        files.sync(file.parent)
    except OSError as error:
        raise StoreUnavailable(
            f"{file} is in its place, but may be gone after a power cut: {error.strerror};"
            " see that its disk is sound"
        ) from error
