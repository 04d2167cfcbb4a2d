"""What the units of a host's service mean for its configuration."""

import os
import shlex
import stat
from pathlib import Path

from dispatcher.config.config import Config, managers
from dispatcher.host import owner

#: What `ProtectHome=` and `PrivateTmp=` hide from the daemon of a host's service.
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108

#: Directly below these and / are directories of the whole system.
_SHARED_BELOW = (Path("/"), Path("/usr"), Path("/var"))


def is_hosts(config: Config) -> bool:
    """Return whether a unit of this host starts the daemon of a configuration."""
    if config.executor.mode != "external" or config.file is None:
        return False
    host, *_ = managers()
    return host.unit_of(config.file, "dispatcher") is not None


def hidden_by(path: Path) -> str | None:
    """Return which of the directories that the daemon's unit hides holds a path, or its target."""
    real = Path(os.path.realpath(path))
    for hidden in HIDDEN:
        if path.is_relative_to(hidden):
            return str(hidden)
        if real.is_relative_to(os.path.realpath(hidden)):
            return f"{hidden} (as {real})"
    return None


def enter(directory: Path) -> str:
    """Return the command that lets any user enter a directory.

    All classes get the right: the service's user may be in the directory's group.
    """
    return f"chmod a+x {shlex.quote(str(directory))}"


def remedy_if_closed(directory: Path, uid: int) -> str:
    """Return what lets the service's user write in a directory that it may not write in.

    A directory of the whole system, as /var/lib, is not to be given to one user.
    """
    real = Path(os.path.realpath(directory))
    if real.parent in _SHARED_BELOW:
        return f"name a subdirectory of it in the configuration, as {directory / 'dispatcher-data'}"
    if os.statvfs(real).f_flag & os.ST_RDONLY:
        return "its filesystem is mounted read-only: mount it writable, or name another directory"
    found, commands = real.stat(), []
    if found.st_uid != uid:
        commands.append(owner.change_owner(uid, directory))
    if ~found.st_mode & (stat.S_IWUSR | stat.S_IXUSR):
        commands.append(f"chmod u+wx {shlex.quote(str(directory))}")
    return " && ".join(commands) or f"see its access control list: getfacl {directory}"
