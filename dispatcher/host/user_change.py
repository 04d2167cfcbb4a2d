"""Root at work in another user's directory: the process becomes that user.

The owner of a directory can replace any name in it by a symbolic link, at any moment: a file that
root opens, creates or removes by such a name may be any file of the host. As the owner, the process
can do no more than the owner, and its files are the owner's.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from dispatcher.errors import ConfigError
from dispatcher.host.owner import Owner, refused, remember_became

_PR_SET_DUMPABLE: Final = 4


def become(owner: Owner, state_dir: Path) -> None:
    """Become the owner of the state directory for good, with its groups, home and name.

    Raises `ConfigError` if this process may not, or could not load its own code then.
    """
    import pwd  # noqa: PLC0415 - for root alone

    entry = None
    with suppress(KeyError):
        entry = pwd.getpwuid(owner.uid)
    gid = owner.gid if entry is None else entry.pw_gid
    try:
        if entry is None:
            os.setgroups([])
        else:
            os.initgroups(entry.pw_name, gid)
        os.setresgid(gid, gid, gid)
        os.setresuid(owner.uid, owner.uid, owner.uid)
    except OSError as error:
        raise refused(owner, state_dir) from error
    remember_became(owner)
    # Without an entry, as in container runtimes: no name, and a home that exists.
    os.environ["HOME"] = "/" if entry is None else entry.pw_dir
    for name in ("USER", "LOGNAME"):
        os.environ.pop(name, None)
        if entry is not None:
            os.environ[name] = entry.pw_name
    _check_code_is_readable(owner)


def _check_code_is_readable(owner: Owner) -> None:
    """Raise `ConfigError` if the owner cannot load later imports, or start Python."""
    for path in (sys.executable, Path(os.__file__).parent, Path(__file__).parents[1]):
        if not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(
                f"{owner.place} belongs to {owner}, who cannot read {path}: install dispatcher and"
                " its Python where that user can"
            )


def show_in_proc() -> None:
    """Let the user see this process in /proc like its others.

    The kernel hides a process that changed its user: PR_SET_DUMPABLE in prctl(2).
    """
    import ctypes  # noqa: PLC0415 - for root's daemon alone

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def may_read(owner: Owner, file: Path) -> bool:
    """Return whether a user may read a file; for root alone.

    Root becomes that user for the check. True if root may not become the user.
    """
    before = os.getgroups()
    name = owner.name
    groups = [owner.gid] if name.startswith("#") else os.getgrouplist(name, owner.gid)
    try:
        os.setgroups(groups)
        os.setegid(owner.gid)
        os.seteuid(owner.uid)
        return os.access(file, os.R_OK, effective_ids=True)
    except PermissionError:
        return True
    finally:
        os.seteuid(0)
        os.setegid(0)
        with suppress(PermissionError):
            os.setgroups(before)
