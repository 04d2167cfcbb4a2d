"""Install dispatcher as a service of this host or of one user, and uninstall it."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from grp import getgrnam
from pathlib import Path

from dispatcher.config import reference
from dispatcher.config.config import SYSTEM_FILE, Config, load
from dispatcher.config.file import written
from dispatcher.config.of_user import config_home
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.host.files import replace
from dispatcher.host.owner import owner_of, unknown_user
from dispatcher.service import files, systemd, units
from dispatcher.service.files import InstallStep
from dispatcher.service.units import ACCOUNT, Installation

#: Where an administrator's units are.
SYSTEM_UNITS = Path("/etc/systemd/system")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the service of an instance is installed, and its user."""

    instance: str | None
    user: bool
    """Whether it is a service of one user, in the user manager."""
    units: Path
    file: Path
    """Its configuration."""
    run_as: str = ACCOUNT
    """The user that a service of the host runs as."""

    @property
    def names(self) -> Sequence[str]:
        """The names of its units, in the order of their start."""
        return units.names(self.instance)

    @property
    def paths(self) -> Sequence[Path]:
        """The files of its units."""
        return [self.units / name for name in self.names]

    @property
    def systemctl(self) -> str:
        """The command that manages its units."""
        return "systemctl --user" if self.user else "systemctl"


def place(*, user: bool, instance: str | None, named: str | None, run_as: str | None) -> Place:
    """Return the place that options name; `named` is the configuration's file.

    Options left out are as in the installed units: an upgrade changes neither file nor user.
    """
    directory, where = SYSTEM_FILE.parent, SYSTEM_UNITS
    if user:
        if (home := config_home(os.environ)) is None:
            raise DispatcherError("this user has no home directory; let $XDG_CONFIG_HOME name one")
        directory, where = home / "dispatcher", home / "systemd" / "user"
    before = units.installed(files.content(where / units.names(instance)[-1]) or "")
    usual = before.file or directory / f"{instance or 'dispatcher'}.toml"
    return Place(
        instance=instance,
        user=user,
        units=where,
        file=Path(named).absolute() if named else usual,
        run_as=run_as or before.user or ACCOUNT,
    )


def install(at: Place, command: Sequence[str], *, force: bool) -> Iterator[InstallStep]:
    """Write the units, and the missing files that they need; yield each step.

    Before anything is written, raises `ConfigError` for a configuration that does not fit, and
    `DispatcherError` for units that were changed by hand.
    """
    version = systemd.version()
    if not force:
        files.expect_as_written(at.paths)
    if not at.user:
        _expect_visible((*_start_paths(command), at.file))
    config = configuration_for(at) if at.file.exists() else None
    if not at.user and at.run_as == ACCOUNT and systemd.make_account():
        yield InstallStep("made", f"the user {ACCOUNT}")
    account = None if at.user else systemd.account(at.run_as)
    if config is None:
        yield from _make_configuration(at, account)
        config = configuration_for(at)
    installation = Installation(
        command=command,
        config=config,
        instance=at.instance,
        account=account,
        documentation=Path(sys.prefix) / "share" / "doc" / "dispatcher" / "operations.md",
        systemd=version,
    )
    texts = units.unit_texts(installation)
    yield from files.write(
        {at.units / n: files.sealed(n, text, user=at.user) for n, text in texts.items()}
    )
    if account is not None:
        yield from _make_places(config, at.run_as)
        yield from _warn_unreadable(at, command)


def uninstall(at: Place, *, force: bool) -> Iterator[InstallStep]:
    """Remove the units and yield each step; drop-ins, configuration, state and user stay.

    Raises `DispatcherError` without units, while they run or are enabled, and for units that were
    changed by hand.
    """
    if not any(path.exists() or path.is_symlink() for path in at.paths):
        raise DispatcherError(f"no service is installed here: there is no {at.paths[-1]}")
    if not force:
        files.expect_as_written(at.paths)
    if shutil.which("systemctl") and (busy := systemd.in_use(at.names, user=at.user)):
        disable = f"{at.systemctl} disable --now {' '.join(at.names)}"
        raise DispatcherError(
            f"still running or enabled: {', '.join(busy)}; disable it first, which ends its runs:"
            f" {disable}"
        )
    yield from files.remove(at.paths)
    for left in (*(Path(f"{path}.d") for path in at.paths), at.file):
        if left.exists():
            yield InstallStep("left", str(left))


def _environment(at: Place) -> Mapping[str, str]:
    """Return the variables that name directories, as the service will have them."""
    if at.user:
        return {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
    own = f"-{at.instance}" if at.instance else ""
    return {
        "STATE_DIRECTORY": f"/var/lib/dispatcher{own}",
        "RUNTIME_DIRECTORY": f"/run/dispatcher{own}",
    }


def configuration_for(at: Place) -> Config:
    """Return a configuration with which the units work, or raise `ConfigError`."""
    config = load(str(at.file), _environment(at))
    if config.executor.mode != "external":
        raise ConfigError(
            f"{at.file}: executor.mode: the service has a unit for the executor; write under"
            ' [executor]: mode = "external"'
        )
    if not at.user:
        _expect_visible((config.state_dir, config.runtime_dir))
    return config


def _make_configuration(at: Place, account: tuple[str, str] | None) -> Iterator[InstallStep]:
    environ = _environment(at)
    if account is None:
        state_dir = load(os.devnull, os.environ).state_dir
        if at.instance:
            state_dir = state_dir.with_name(f"{state_dir.name}-{at.instance}")
        given = {"state_dir": written(str(state_dir)), "mode": reference.PACKAGED["mode"]}
        group = -1
    else:
        directories = {
            "state_dir": written(environ["STATE_DIRECTORY"]),
            "runtime_dir": written(environ["RUNTIME_DIRECTORY"]),
        }
        given = {**reference.PACKAGED, **directories}
        group = int(account[1]) if account[1].isdecimal() else getgrnam(account[1]).gr_gid
    if not at.file.parent.exists():
        at.file.parent.mkdir(parents=True)
        # Other users' services have their files there too; each file has its own mode.
        at.file.parent.chmod(0o700 if account is None else 0o755)
        yield InstallStep("made", str(at.file.parent))
    mode = 0o600 if account is None else 0o640
    replace(at.file, reference.commented_file(given), mode=mode, group=group)
    yield InstallStep("wrote", str(at.file))


def _expect_visible(paths: Sequence[Path]) -> None:
    """Raise `ConfigError` for a path that the daemon's unit hides from it."""
    for path in paths:
        if hidden := next((one for one in units.HIDDEN if path.is_relative_to(one)), None):
            raise ConfigError(
                f"{path} is below {hidden}, which a service of the host does not see; move it, for"
                " example to /opt, /etc or /var/lib, or install a service of your own: --user"
            )


def _start_paths(command: Sequence[str]) -> Sequence[Path]:
    program = Path(command[0])
    return program, program.resolve(), Path(sys.executable).resolve(), units.SHIPPED.resolve()


def _make_places(config: Config, run_as: str) -> Iterator[InstallStep]:
    """Make the directories that systemd does not make, and warn of those closed to the service.

    None is made below a directory of another user, who may lead its path to any place of root's.
    """
    figures = config.metrics.textfile and Path(config.metrics.textfile).parent
    for directory in units.other_places(config):
        foreign = owner_of(directory, unknown=unknown_user())
        if foreign is not None and not directory.exists():
            why = f"{directory} is missing, and {foreign.place} belongs to {foreign}"
            yield InstallStep(
                "warning", f"{why}; make it: sudo -u '{foreign.name}' mkdir -p {directory}"
            )
        elif not directory.exists():
            directory.mkdir(parents=True)
            directory.chmod(0o755 if directory == figures else 0o700)
            owner = pwd.getpwnam(run_as)
            os.chown(directory, owner.pw_uid, owner.pw_gid)
            yield InstallStep("made", str(directory))
        elif (closed := systemd.unwritable(directory, run_as)) is not None:
            remedy = f"chown {run_as} {closed}" if closed == directory else f"chmod o+x {closed}"
            why = f"the user {run_as} may not write in {directory}"
            yield InstallStep("warning", f"{why}; the service needs it: {remedy}")


def _warn_unreadable(at: Place, command: Sequence[str]) -> Iterator[InstallStep]:
    for path in dict.fromkeys((*_start_paths(command), at.file)):
        if (part := systemd.unreadable(path, at.run_as)) is not None:
            yield InstallStep(
                "warning",
                f"the user {at.run_as} may not read {part}; the service needs it:"
                f" {_remedy(part, at.run_as)}",
            )


def _remedy(path: Path, user: str) -> str:
    return f"chmod o+x {path}" if path.is_dir() else f"chgrp {systemd.account(user)[1]} {path}"


def this_command() -> Sequence[str]:
    """Return the command of the running dispatcher, as a unit may name it."""
    named = shutil.which(sys.argv[0])
    if named is not None and Path(named).name == "dispatcher":
        return [str(Path(named).absolute())]
    return [sys.executable, "-P", "-m", "dispatcher"]
