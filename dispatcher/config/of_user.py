"""An ordinary user's own configuration, by the XDG base directory specification."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def config_home(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of this user's configuration files; None without a home."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return Path(base)
    try:
        return Path.home() / ".config"
    except RuntimeError:
        return None


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Return this user's own file if it exists, or if that cannot be found out; root has none.

    The directory must be this user's own: `runuser` and `setpriv` keep another user's HOME. Reading
    the file reports why it cannot be found.
    """
    home = config_home(environ)
    if home is None or os.geteuid() == 0:
        return None
    file = home / "dispatcher" / "dispatcher.toml"
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # as EACCES, EIO, ESTALE: it may be there
        pass
    return file if _is_own(file.parent) else None


def _is_own(directory: Path) -> bool:
    """Return whether one of the last three directories of a path belongs to this user.

    Where all three are hidden from this user, the owner of the directory that hides them counts.
    """
    for place in (directory, *directory.parents):
        try:
            if place.stat().st_uid == os.geteuid():
                return True
        except (FileNotFoundError, PermissionError):
            continue
        except OSError:  # as EIO, ESTALE
            return True
        if place not in {directory, directory.parent}:
            return False
    return False
