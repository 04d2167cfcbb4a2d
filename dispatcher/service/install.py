"""Install dispatcher as a service of this host or of one user, and uninstall it."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from grp import getgrnam
from pathlib import Path

from msgspec import Struct

from dispatcher.config import reference
from dispatcher.config.config import SYSTEM_FILE, SYSTEM_UNITS, Config, load
from dispatcher.config.file import written
from dispatcher.config.places import config_home
from dispatcher.config.unit_files import installed
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.host.files import replace
from dispatcher.service import files, places, systemd, units
from dispatcher.service.files import InstallStep
from dispatcher.service.units import ACCOUNT, Installation


class Place(Struct, frozen=True, kw_only=True):
    """Where the service of an instance is installed, and its user."""

    instance: str | None
    user: bool
    """Whether it is a service of one user, in the user manager."""
    units: Path
    file: Path
    """Its configuration."""
    run_as: str = ACCOUNT
    """The user that a service of the host runs as."""
    usual_file: Path = SYSTEM_FILE
    """The configuration that its user's commands read unless they name another."""

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
    text = files.content(where / units.names(instance)[-1]) or ""
    before = installed(text, {"i": instance or "", "E": str(directory.parent)})
    usual = before.file or directory / f"{instance or 'dispatcher'}.toml"
    return Place(
        instance=instance,
        user=user,
        units=where,
        file=Path(named).absolute() if named else usual,
        usual_file=directory / SYSTEM_FILE.name,
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
        places.expect_visible((*places.start_paths(command), at.file))
    for path in (at.file, at.units):
        places.expect_own(path)
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
        yield from places.make_places(config, at.run_as)
        yield from places.warn_unreadable((*places.start_paths(command), at.file), at.run_as)
        yield from _other_users(at)


def uninstall(at: Place, *, force: bool) -> Iterator[InstallStep]:
    """Remove the units and yield each step; drop-ins, configuration, state and user stay.

    Raises `DispatcherError` without units, while they run or are enabled, and for units that were
    changed by hand. With `force`, units whose manager does not answer count as stopped.
    """
    if not any(path.exists() or path.is_symlink() for path in at.paths):
        raise DispatcherError(f"no service is installed here: there is no {at.paths[-1]}")
    places.expect_own(at.units)
    if not force:
        files.expect_as_written(at.paths)
    if busy := _in_use(at, force=force):
        disable = f"{at.systemctl} disable --now {' '.join(at.names)}"
        raise DispatcherError(
            f"still running or enabled: {', '.join(busy)}; disable it first, which ends its runs:"
            f" {disable}"
        )
    kinds = ("wants", "requires", "upholds")
    enabled = [directory for kind in kinds for directory in at.units.glob(f"*.{kind}")]
    links = [directory / name for name in at.names for directory in enabled]
    yield from files.remove_links(links)
    yield from files.remove(at.paths)
    for left in (*(Path(f"{path}.d") for path in at.paths), at.file):
        if left.exists():
            yield InstallStep("left", str(left))


def _in_use(at: Place, *, force: bool) -> Sequence[str]:
    if shutil.which("systemctl") is None:
        return []
    try:
        return systemd.in_use(at.names, user=at.user)
    except systemd.ManagerSilent:
        if not force:
            raise
        return []


def _other_users(at: Place) -> Iterator[InstallStep]:
    """Warn of drop-ins that set another user than the unit."""
    for path in at.paths:
        unit = path.name.partition("@")
        directories = {f"{path.name}.d", f"{unit[0]}{unit[1]}.service.d" if unit[1] else ""}
        for drop_in in sorted(
            file for name in directories if name for file in (at.units / name).glob("*.conf")
        ):
            user = installed(files.content(drop_in) or "").user
            if user is not None and user != at.run_as:
                yield InstallStep(
                    "warning",
                    f"{drop_in} sets User={user}, and the directories are for {at.run_as}; remove"
                    f" that line and give --run-as {user}",
                )


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
        figures = units.figures_directory(config)
        database = config.other_places["database"]
        directories = (config.state_dir, config.runtime_dir, database, figures)
        places.expect_visible([path for path in directories if path is not None])
        made = [path for path in units.made_by_systemd(config).values() if path is not None]
        places.expect_makeable([*made, *units.other_places(config)])
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
        # Other users' services have their files there too; each file has its own mode.
        directory_mode = 0o700 if account is None else 0o755
        places.make_directory(at.file.parent, mode=directory_mode, above=directory_mode)
        yield InstallStep("made", str(at.file.parent))
    places.expect_own(at.file)
    mode = 0o600 if account is None else 0o640
    replace(at.file, reference.commented_file(given), mode=mode, group=group)
    yield InstallStep("wrote", str(at.file))


def this_command() -> Sequence[str]:
    """Return the command of the running dispatcher, as a unit may name it."""
    named = shutil.which(sys.argv[0])
    if named is not None and Path(named).name == "dispatcher":
        return [str(Path(named).absolute())]
    return [sys.executable, "-P", "-m", "dispatcher"]
