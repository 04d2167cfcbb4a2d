"""The configuration: its file found and read, its places resolved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from dispatcher.config import absence, limit_settings, places
from dispatcher.config.limit_settings import Limit
from dispatcher.config.peer_settings import PeersSection
from dispatcher.config.places import RUNTIME, SOCKET, STATE, STORE, config_home, user_file
from dispatcher.config.report_settings import LogsSection, MetricsSection, OutputSection
from dispatcher.config.settings import (
    DaemonSection,
    ExecutorSection,
    LeasesSection,
    RetrySection,
    ScheduleTable,
    Settings,
)
from dispatcher.config.task_settings import Defaults, HooksSection, Profile, Queue
from dispatcher.errors import ConfigError
from dispatcher.host import owner
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.schema import is_shared

if TYPE_CHECKING:
    from dispatcher.config.unit_files import Manager

_T = TypeVar("_T")

#: The configuration file when none is named and the user has none.
SYSTEM_FILE = Path("/etc/dispatcher/dispatcher.toml")

#: Where an administrator's units are.
SYSTEM_UNITS = Path("/etc/systemd/system")

#: The variable that names the configuration file.
_FILE = "DISPATCHER_CONFIG"


#: The variable that names the file of the dispatcher that runs this process, "" for none: the
#: variables of `places` apply to no other file.
_OWNER = "DISPATCHER_RUN_CONFIG"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration from start to reload. Directories are absolute; they need not exist."""

    file: Path | None
    """The file it was read from; None: built-in defaults."""
    state_dir: Path
    runtime_dir: Path
    store_url: str
    store_schema: str
    slots: int
    labels: Mapping[str, str] = {}
    """Of this node."""
    daemon: DaemonSection
    executor: ExecutorSection
    leases: LeasesSection
    retry: RetrySection
    output: OutputSection
    defaults: Defaults
    queues: Mapping[str, Queue]
    limits: Mapping[str, Limit]
    profiles: Mapping[str, Profile]
    """Without the mistaken ones."""
    mistaken_profiles: Mapping[str, Sequence[str]] = {}
    """The mistakes of each profile that has one, a line each: it cannot be used."""
    hooks: HooksSection = HooksSection()
    schedules: Mapping[str, ScheduleTable] = {}
    logs: LogsSection
    metrics: MetricsSection
    peers: PeersSection = PeersSection()

    @property
    def mistakes(self) -> Sequence[str]:
        """The mistakes of profiles, a line each: all that a configuration may have."""
        return [line for lines in self.mistaken_profiles.values() for line in lines]

    @property
    def on_stop(self) -> Literal["drain", "leave"]:
        """What SIGTERM to the daemon does."""
        return self.daemon.on_stop or ("drain" if self.executor.mode == "embedded" else "leave")

    @property
    def absence_limit_ms(self) -> Milliseconds | None:
        """How long runs may go on while no daemon confirms their claims; None: for ever."""
        return absence.limit(self.executor, self.store_url)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which another process finds the same daemon and store."""
        file = {_OWNER: ""} if self.file is None else dict.fromkeys((_FILE, _OWNER), str(self.file))
        found = {STATE: str(self.state_dir), RUNTIME: str(self.runtime_dir), STORE: self.store_url}
        return {**file, **found}

    @property
    def other_places(self) -> Mapping[str, Path]:
        """The places of files outside the state directory, by name."""
        found = {"runtime directory": self.runtime_dir}
        if not is_shared(self.store_url):
            found["database"] = Path(self.store_url.removeprefix("sqlite://"))
        return found

    @property
    def carries_environments(self) -> bool:
        """Whether a command gets its submitter's environment and umask by default."""
        alone = "submitter" if self.store_url.startswith("sqlite:") else "clean"
        return (self.defaults.environment or alone) == "submitter"

    @property
    def output_dir(self) -> Path:
        return self.state_dir / "output"

    @property
    def worker_home(self) -> Path:
        """The home directory of workers under the unit of the user that the units name."""
        return self.state_dir / "home"

    def start_command(self, unit: str = "dispatcher") -> str:
        """Return the command that starts the daemon, or another unit of the service.

        It is for the user who typed the command: root, if this process became another user.
        """
        if self.executor.mode == "external":
            from dispatcher.config import unit_files  # noqa: PLC0415 - for advice alone

            found = unit_files.start_command(managers(), self.file or SYSTEM_FILE, unit)
            if found is not None:
                return found
        by_hand = "run" if self.executor.mode == "external" else "run --detach"
        command = f"dispatcher {'executor' if unit == 'dispatcher-executor' else by_hand}"
        is_found = owner.became() is None and self.file == find(None, os.environ)[0]
        if self.file is None or is_found:
            return command
        import shlex  # noqa: PLC0415 - for advice alone

        return f"{command} --config {shlex.quote(str(self.file))}"

    @property
    def control_socket(self) -> Path:
        """Where the daemon is woken and reports its status."""
        return self.runtime_dir / "control.sock"

    @property
    def executor_socket(self) -> Path:
        """Where the executor waits for the daemon."""
        return self.runtime_dir / "executor.sock"


#: The sections that are taken as they are in the file.
_SECTIONS = [name for name in Settings.__struct_fields__ if name in Config.__struct_fields__]


class Mistaken(ConfigError):
    """A file has mistakes; go on with `rest`, or print them and exit 78."""

    def __init__(
        self,
        mistakes: Sequence[str],
        rest: Config,
        *,
        places_certain: bool,
        directories_certain: bool,
    ) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
        self.rest = rest
        """The configuration with defaults in place of the mistakes."""
        self.places_certain = places_certain
        """Whether `rest` certainly names the daemon and the store that the file means."""
        self.directories_certain = directories_certain
        """Whether `rest` certainly has the directories that the file means."""


def load(named: str | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration: of the named file, $DISPATCHER_CONFIG, the user's or the system's.

    The first of them counts; without any file the defaults hold. A profile with a mistake is in
    `mistaken_profiles`. Raises `ConfigError` when the file cannot be read, and `Mistaken` when it
    has other mistakes.
    """
    file, environ = find(named, environ)
    settings = Settings()
    mistakes: list[str] = []
    profiles: Mapping[str, Sequence[str]] = {}
    places_certain = directories_certain = True
    if file is not None:
        from dispatcher.config import file as config_file  # noqa: PLC0415 - imports a TOML parser

        settings, mistakes, profiles, places_certain, directories_certain = config_file.read(file)
    config, impossible = resolve(settings, file, environ)
    of_limits = limit_settings.mistaken(config, str(file or "built-in defaults"), mistakes)
    good = {name: one for name, one in config.profiles.items() if name not in of_limits}
    profiles = {**profiles, **of_limits}
    config = msgspec.structs.replace(config, profiles=good, mistaken_profiles=profiles)
    places_certain = places_certain or names_places(environ, with_store=True)
    directories_certain = directories_certain or names_places(environ, with_store=False)
    directories_certain = directories_certain and not any(map(concerns_directories, impossible))
    if not places_certain and settings.node.runtime_dir is None:
        # It is derived from what may be mistaken.
        impossible = [what for what in impossible if not what.startswith("node.runtime_dir")]
    together = [*impossible, *settings.unknown_profiles(profiles)]
    together += absence.mistakes(config.executor, config.leases, config.store_url)
    mistakes += [f"{file or 'built-in defaults'}: {what}" for what in together]
    if len(mistakes) > len(config.mistakes):
        raise Mistaken(
            mistakes,
            config,
            places_certain=places_certain and not impossible,
            directories_certain=directories_certain,
        )
    return config


def find(named: str | None, environ: Mapping[str, str]) -> tuple[Path | None, Mapping[str, str]]:
    """Return the file to read, None for none, and the environment that applies to it.

    The variables that name a running dispatcher's places apply to that dispatcher's own file alone.
    """
    chosen = named or environ.get(_FILE)
    owners = environ.get(_OWNER, environ.get(_FILE)) or SYSTEM_FILE
    if chosen and os.path.realpath(chosen) != os.path.realpath(owners):
        environ = {n: environ[n] for n in environ if n not in {STATE, RUNTIME, STORE, SOCKET}}
    if chosen:
        return Path(chosen).absolute(), environ
    # A dispatcher without a file, which may have been root's, has none for its workers either.
    if environ.get(_OWNER) != "" and (own := user_file(environ)) is not None:
        return own, environ
    return SYSTEM_FILE if _may_exist(SYSTEM_FILE) else None, environ


def _may_exist(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # reading it reports the error
        pass
    return True


def managers() -> Sequence[Manager]:
    """Return the managers whose units may start a daemon: the host's, then the user's."""
    from dispatcher.config.unit_files import PACKAGED, Manager  # noqa: PLC0415 - for advice alone

    found = [Manager("systemctl", SYSTEM_FILE, (SYSTEM_UNITS, PACKAGED / "system"))]
    if (home := config_home(os.environ)) is not None:
        systemctl = "systemctl --user"
        if (user := owner.became()) is not None:
            own = f"env XDG_RUNTIME_DIR=/run/user/{user.uid}"
            systemctl = f"{owner.sudo(user.uid)} {own} {systemctl}"
        units = (home / "systemd" / "user", PACKAGED / "user")
        found.append(Manager(systemctl, home / "dispatcher" / SYSTEM_FILE.name, units))
    return found


def names_places(environ: Mapping[str, str], *, with_store: bool) -> bool:
    """Return whether the environment names the directories, and the store, whatever the file is."""
    directories = all(environ.get(name, "").startswith("/") for name in (STATE, RUNTIME))
    return directories and bool(environ.get(STORE) or not with_store)


def concerns_directories(impossible: str) -> bool:
    """Return whether an impossible value that `resolve` found is a directory of the node."""
    return impossible.startswith("node.")


def resolve(
    settings: Settings, file: Path | None, environ: Mapping[str, str]
) -> tuple[Config, list[str]]:
    """Return the configuration, and what of it is impossible; "/" or "" is in its place."""
    mistakes: list[str] = []

    def tried(place: Callable[[], _T], instead: _T) -> _T:
        try:
            return place()
        except ValueError as error:
            mistakes.append(str(error))
            return instead

    nowhere = Path("/")
    state_dir = tried(lambda: places.state_directory(settings, environ), nowhere)
    config = Config(
        file=file,
        state_dir=state_dir,
        runtime_dir=tried(lambda: places.runtime_directory(settings, state_dir, environ), nowhere),
        store_url=tried(lambda: places.store_url(settings, state_dir, environ), ""),
        store_schema=tried(lambda: places.store_schema(settings), ""),
        slots=settings.node.slots or len(os.sched_getaffinity(0)),
        labels=settings.node.labels or {},
        **{name: getattr(settings, name) for name in _SECTIONS},
    )
    return config, mistakes
