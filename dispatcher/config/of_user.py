"""Where an ordinary user's own configuration is: the XDG base directory specification."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def config_home(environ: Mapping[str, str]) -> Path | None:
    """Return where this user's programs have their configuration; None: there is no home."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return Path(base)
    try:
        return Path.home() / ".config"
    except RuntimeError:
        return None


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Return this user's own file if it is there; root has none.

    It must be in this user's own directory: `runuser` and `setpriv` leave the HOME of another.
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
