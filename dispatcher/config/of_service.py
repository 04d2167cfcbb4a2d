"""What the units of a host's service mean for its configuration."""

from __future__ import annotations

import os
from pathlib import Path

from dispatcher.config.config import SYSTEM_FILE, Config

#: What `ProtectHome=` and `PrivateTmp=` hide from the daemon of a host's service.
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108


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
