"""The calls of systemd's own programs for an installation."""

import grp
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dispatcher.errors import DispatcherError
from dispatcher.host.owner import name_of
from dispatcher.service.units import ACCOUNT, SHIPPED


def version() -> int:
    """Return systemd's version. Raises `DispatcherError` without systemd."""
    if shutil.which("systemctl") is None:
        raise DispatcherError(
            "this host has no systemd (no systemctl in PATH); let its own service manager run:"
            " dispatcher run"
        )
    shown = _output("systemctl", "--version")
    if (found := re.match(r"systemd (\d+)", shown)) is None:
        raise DispatcherError(f"systemctl --version answers {shown!r}, which names no version")
    return int(found[1])


class ManagerSilent(DispatcherError):
    """The manager of the units does not answer."""


def in_use(names: Sequence[str], *, user: bool) -> list[str]:
    """Return which units run or are enabled. Raises `ManagerSilent`."""
    manager = ["systemctl", *(["--user"] if user else [])]
    command = [*manager, "show", "--property=Id,ActiveState,UnitFileState", *names]
    done = _run(command)
    if done.returncode != 0 and user:  # `su` and `runuser` name no manager, or another user's
        others = {"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"}
        environ = {name: value for name, value in os.environ.items() if name not in others}
        done = _run(command, {**environ, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"})
    if done.returncode != 0:
        whose = f"the user manager of {name_of(os.getuid())}" if user else "systemd"
        why = done.stderr.strip().partition("\n")[0]
        raise ManagerSilent(
            f"{whose} does not answer whether {' and '.join(names)} run: {why}; start it, or if"
            " nothing of the service runs: --force"
        )
    found = []
    for block in done.stdout.split("\n\n"):
        properties = dict(line.partition("=")[::2] for line in block.splitlines())
        runs = properties.get("ActiveState", "inactive") not in {"inactive", "failed"}
        if runs or properties.get("UnitFileState", "").startswith("enabled"):
            found.append(properties["Id"])
    return found


def account(name: str) -> tuple[str, str]:
    """Return the names of a user and its group. Raises `DispatcherError` for an unknown user."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise DispatcherError(
            f"there is no user {name}; make it: useradd --system --user-group {name}"
        ) from None
    try:
        return name, grp.getgrgid(user.pw_gid).gr_name
    except KeyError:
        return name, str(user.pw_gid)


def make_account() -> bool:
    """Make the user that the shipped units name if it is missing; return whether it was made."""
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        wanted = SHIPPED / "sysusers.d" / "dispatcher.conf"
        if shutil.which("systemd-sysusers") is not None:
            _output("systemd-sysusers", str(wanted))
        account(ACCOUNT)
        return True
    return False


def unreadable(path: Path, name: str) -> Path | None:
    """Return the first part of a path that a user may not enter or read; None: it may.

    Modes are checked, access control lists are not.
    """
    return _closed(path, name, 4)


def unwritable(directory: Path, name: str) -> Path | None:
    """Return the same for a directory that a user must write to."""
    return _closed(directory, name, 3)


def _closed(path: Path, name: str, bits: int) -> Path | None:
    user = pwd.getpwnam(name)
    groups = os.getgrouplist(name, user.pw_gid)
    real = path.resolve()
    for part in (*reversed(real.parents), real):
        found = part.stat()
        shift = 6 if found.st_uid == user.pw_uid else 3 if found.st_gid in groups else 0
        wanted = bits if part == real else 1
        if found.st_mode >> shift & wanted != wanted:
            return part
    return None


def _output(*command: str) -> str:
    """Return the output of a command; "" if it fails."""
    done = _run(command)
    return done.stdout if done.returncode == 0 else ""


def _run(
    command: Sequence[str], environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=environ
    )
