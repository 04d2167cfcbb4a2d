"""What the units of a host's service mean for its configuration."""

from __future__ import annotations

import os
from pathlib import Path

from dispatcher.config.config import SYSTEM_FILE, Config

#: What `ProtectHome=` and `PrivateTmp=` hide from the daemon of a host's service.
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108

#: Directly below these and / are directories of the whole system.
_SHARED_BELOW = (Path("/"), Path("/usr"), Path("/var"))


def is_hosts(config: Config) -> bool:
    """Return whether a configuration is where that of a host's service is."""
    external = config.executor.mode == "external"
    return external and config.file is not None and config.file.parent == SYSTEM_FILE.parent


def hidden_by(path: Path) -> str | None:
    """Return which of the directories that the daemon's unit hides holds a path, or its target."""
    real = Path(os.path.realpath(path))
    for hidden in HIDDEN:
        if path.is_relative_to(hidden):
            return str(hidden)
        if real.is_relative_to(os.path.realpath(hidden)):
            return f"{hidden} (as {real})"
    return None


def remedy_if_closed(directory: Path, user: str) -> str:
    """Return what lets the service's user write in a directory that it may not write in.

    A directory of the whole system, as /var/lib, is not to be given to one user.
    """
    real = Path(os.path.realpath(directory))
    if real.parent in _SHARED_BELOW:
        return f"name a subdirectory of it in the configuration, as {directory / 'dispatcher-data'}"
    return f"chown {user} {directory}"
