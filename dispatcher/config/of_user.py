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
    """Return this user's own file if it exists; root has none.

    The directory must be this user's own: `runuser` and `setpriv` keep another user's HOME.
    """
    home = config_home(environ)
    if home is None or os.geteuid() == 0:
        return None
    file = home / "dispatcher" / "dispatcher.toml"
    try:
        is_own = file.parent.stat().st_uid == os.geteuid()
        return file if is_own and file.exists() else None
    except OSError:
        return None
