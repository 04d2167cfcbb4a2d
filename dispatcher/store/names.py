"""A database has one name: SQLite finds the newest commits by it, and daemons find each other.

With one name in one directory, the files beside a database are the same for everybody who reaches
it, by whatever symbolic links and mounted directories. By a second hard link they are others.
"""

from __future__ import annotations

from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Final

from dispatcher.errors import StoreUnusable

#: What the name of the directory of a draft ends with, before eight random digits.
DRAFT: Final = ".new-"

#: A draft's own name.
WHOLE: Final = "draft.db"


def beside(file: Path) -> tuple[Path, ...]:
    """Return what SQLite takes for a part of a database file, whoever left it there."""
    return tuple(Path(f"{file}{tail}") for tail in ("-wal", "-shm", "-journal"))


def refuse_second_name(path: Path) -> None:
    """Raise `StoreUnusable` when a database file has another name too. It is never opened here."""
    real = path.resolve()
    try:
        found = real.stat()
    except OSError:  # whoever opens it says what is wrong
        return
    if found.st_nlink > 1 and not _has_one_without_drafts(real):
        raise StoreUnusable(
            f"{path} has {found.st_nlink} names (hard links), and a commit made through one name is"
            " lost to users of the other; keep the name that the daemon uses and remove the others;"
            f" find them with: find / -xdev -inum {found.st_ino}"
        )


def _has_one_without_drafts(real: Path) -> bool:
    """Remove the name under which it was made, in case its maker died before it could."""
    for draft in real.parent.glob(f"{escape(real.name)}{DRAFT}*/{WHOLE}"):
        with suppress(OSError):
            if draft.samefile(real):
                draft.unlink()
    return real.stat().st_nlink == 1
