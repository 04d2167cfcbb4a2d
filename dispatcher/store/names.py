"""Refuses a database with two names: SQLite finds the newest commits by its name.

With one name, all users find the same WAL and lock next to a database, through any symbolic links
and mounted directories. Under a second hard link they find other ones.
"""

from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Final

from dispatcher.errors import StoreUnusable

#: Suffix of the name of a draft's directory, before eight random digits.
DRAFT: Final = ".new-"

#: File name of a draft.
WHOLE: Final = "draft.db"


def side_files(file: Path) -> tuple[Path, ...]:
    """Return the files that SQLite takes for parts of a database, even if they are not."""
    return tuple(Path(f"{file}{tail}") for tail in ("-wal", "-shm", "-journal"))


def watched_files(path: Path) -> tuple[str, ...]:
    """Return the files that must stay the same while a database is in use."""
    real = path.resolve()
    return str(path), f"{real}-wal", f"{real}-shm"


def refuse_second_name(path: Path) -> None:
    """Raise `StoreUnusable` if a database file has a second name, without opening it."""
    real = path.resolve()
    try:
        found = real.stat()
    except OSError:  # opening it reports the error
        return
    if found.st_nlink > 1 and not _has_one_without_drafts(real):
        raise StoreUnusable(
            f"{path} has {found.st_nlink} names (hard links), and a commit made through one name is"
            " lost to users of the other; keep the name that the daemon uses and remove the others;"
            f" find them with: find / -xdev -inum {found.st_ino}"
        )


def _has_one_without_drafts(real: Path) -> bool:
    """Remove the name of its draft, if the process that made it died before it could."""
    for draft in real.parent.glob(f"{escape(real.name)}{DRAFT}*/{WHOLE}"):
        with suppress(OSError):
            if draft.samefile(real):
                draft.unlink()
    return real.stat().st_nlink == 1
