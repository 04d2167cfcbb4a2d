"""The configuration: found, read, its paths resolved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from dispatcher.config.of_user import user_file
from dispatcher.config.settings import (
    DaemonSection,
    Defaults,
    ExecutorSection,
    LeasesSection,
    LogsSection,
    MetricsSection,
    OutputSection,
    Profile,
    Queue,
    RetrySection,
    Settings,
)
from dispatcher.errors import ConfigError
from dispatcher.host import sockets
from dispatcher.host.owner import agree

_T = TypeVar("_T")

#: Where the configuration is looked for when nobody names a file, and the user has none.
SYSTEM_FILE = Path("/etc/dispatcher/dispatcher.toml")

#: The variable that names the configuration file.
_FILE = "DISPATCHER_CONFIG"

#: The variables by which a worker finds the dispatcher that runs it, whatever becomes of its file.
STATE = "DISPATCHER_STATE_DIR"
RUNTIME = "DISPATCHER_RUNTIME_DIR"
STORE = "DISPATCHER_STORE_URL"
SOCKET = "DISPATCHER_SOCKET"

#: The variable that names the file of that dispatcher, or is empty: no other file has those places.
_OWNER = "DISPATCHER_RUN_CONFIG"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What holds from start to reload. Directories are absolute; they need not exist."""

    file: Path | None
    """The file it was read from; None: built-in defaults."""
    state_dir: Path
    runtime_dir: Path
    store_url: str
    slots: int
    daemon: DaemonSection
    executor: ExecutorSection
    leases: LeasesSection
    retry: RetrySection
    output: OutputSection
    defaults: Defaults
    queues: Mapping[str, Queue]
    profiles: Mapping[str, Profile]
    logs: LogsSection
    metrics: MetricsSection

    @property
    def on_stop(self) -> Literal["drain", "leave"]:
        """What SIGTERM to the daemon does."""
        return self.daemon.on_stop or ("drain" if self.executor.mode == "embedded" else "leave")

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which another process finds the same store, whatever its own are."""
        file = {_OWNER: ""} if self.file is None else dict.fromkeys((_FILE, _OWNER), str(self.file))
        places = {STATE: str(self.state_dir), RUNTIME: str(self.runtime_dir), STORE: self.store_url}
        return {**file, **places}

    @property
    def others(self) -> Mapping[str, Path]:
        """Where files are made beside the state directory, by what the place is called."""
        database = Path(self.store_url.removeprefix("sqlite://"))
        return {"runtime directory": self.runtime_dir, "database": database}

    @property
    def output_dir(self) -> Path:
        """Where the runs' output files are."""
        return self.state_dir / "output"

    @property
    def control_socket(self) -> Path:
        """Where the daemon is woken, and asked how it is."""
        return self.runtime_dir / "control.sock"

    @property
    def executor_socket(self) -> Path:
        """Where the executor waits for the daemon."""
        return self.runtime_dir / "executor.sock"


class Mistaken(ConfigError):
    """A file has mistakes; go on with the rest, or say them and exit 78."""

    def __init__(
        self, mistakes: Sequence[str], rest: Config, *, says_where: bool, says_directories: bool
    ) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
        self.rest = rest
        """What the file says beside its mistakes, with defaults in their place."""
        self.says_where = says_where
        """Whether that is sure to mean the same daemon and store."""
        self.says_directories = says_directories
        """Whether it is sure to mean the same directories."""


def load(named: str | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration: of the file named, else $DISPATCHER_CONFIG's, else the user's own.

    Where the user has none it is the system's, and without any file the defaults hold. Raises
    `ConfigError` when a file that was named cannot be read, and `Mistaken` when it has mistakes.
    """
    file, environ = find(named, environ)
    settings = Settings()
    mistakes: list[str] = []
    says_where = says_directories = True
    if file is not None:
        from dispatcher.config import file as config_file  # noqa: PLC0415 - a TOML parser, for those who have a file

        settings, mistakes, says_where, says_directories = config_file.read(file)
    config, impossible = resolve(settings, file, environ)
    says_where = says_where or {STATE, RUNTIME, STORE} <= environ.keys()
    says_directories = says_directories and not any(map(concerns_directories, impossible))
    if not says_where and settings.node.runtime_dir is None:
        # It follows from what may be mistaken.
        impossible = [what for what in impossible if not what.startswith("node.runtime_dir")]
    mistakes += [f"{file or 'built-in defaults'}: {what}" for what in impossible]
    if mistakes:
        raise Mistaken(
            mistakes,
            config,
            says_where=says_where and not impossible,
            says_directories=says_directories,
        )
    return config


def _may_be_there(file: Path) -> bool:
    """Tell whether a file is there, or whether this user may not see whether it is."""
    try:
        return file.exists()
    except OSError:  # which its reading reports
        return True


def find(named: str | None, environ: Mapping[str, str]) -> tuple[Path | None, Mapping[str, str]]:
    """Return which file is meant, None if there is none, and the variables that hold beside it.

    Where a dispatcher is holds beside no other file than that dispatcher's own.
    """
    chosen = named or environ.get(_FILE)
    owner = environ.get(_OWNER, environ.get(_FILE)) or SYSTEM_FILE
    if chosen and os.path.realpath(chosen) != os.path.realpath(owner):
        environ = {n: environ[n] for n in environ if n not in {STATE, RUNTIME, STORE, SOCKET}}
    if chosen:
        return Path(chosen).absolute(), environ
    # A dispatcher without a file, which may have been root's, has none for its workers either.
    if environ.get(_OWNER) != "" and (own := user_file(environ)) is not None:
        return own, environ
    return SYSTEM_FILE if _may_be_there(SYSTEM_FILE) else None, environ


def concerns_directories(impossible: str) -> bool:
    """Return whether what `resolve` found impossible is a directory of the node."""
    return impossible.startswith("node.")


def resolve(
    settings: Settings, file: Path | None, environ: Mapping[str, str]
) -> tuple[Config, list[str]]:
    """Return the configuration, and what of it is impossible: that stands for nothing then."""
    mistakes: list[str] = []

    def tried(find: Callable[[], _T], instead: _T) -> _T:
        try:
            return find()
        except ValueError as error:
            mistakes.append(str(error))
            return instead

    nowhere = Path("/")
    state_dir = tried(lambda: _sendable("node.state_dir", _state_dir(settings, environ)), nowhere)
    config = Config(
        file=file,
        state_dir=state_dir,
        runtime_dir=tried(
            lambda: _sendable("node.runtime_dir", _runtime_dir(settings, state_dir, environ)),
            nowhere,
        ),
        store_url=tried(lambda: _store_url(settings, state_dir, environ), ""),
        slots=settings.node.slots or len(os.sched_getaffinity(0)),
        daemon=settings.daemon,
        executor=settings.executor,
        leases=settings.leases,
        retry=settings.retry,
        output=settings.output,
        defaults=settings.defaults,
        queues=settings.queues,
        profiles=settings.profiles,
        logs=settings.logs,
        metrics=settings.metrics,
    )
    return config, mistakes


def _state_dir(settings: Settings, environ: Mapping[str, str]) -> Path:
    if given := _given("node.state_dir", settings.node.state_dir, environ.get(STATE, "")):
        return given
    if made := _systemd_directory(environ, "STATE_DIRECTORY"):
        return made
    base = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    home = Path(base) if base.startswith("/") else _home() / ".local" / "state"
    return home / "dispatcher"


def _runtime_dir(settings: Settings, state_dir: Path, environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_RUNTIME_DIR", "")
    if given := _given("node.runtime_dir", settings.node.runtime_dir, environ.get(RUNTIME, "")):
        chosen = given
    elif made := _systemd_directory(environ, "RUNTIME_DIRECTORY"):
        chosen = made
    elif base.startswith("/") and agree(Path(base), state_dir):
        chosen = Path(base) / f"dispatcher-{_hash_of(state_dir)}"
    else:
        chosen = state_dir / "run"
    longest = os.fsencode(chosen / "notify" / ("0" * 32))  # of a run's uid
    if len(longest) > sockets.MAX_PATH:
        raise ValueError(
            f"node.runtime_dir: {chosen}/notify/<run uid> has {len(longest)} bytes and a socket's"
            f" path at most {sockets.MAX_PATH}; set [node] runtime_dir to a shorter directory"
        )
    return chosen


def is_sendable(path: str) -> bool:
    """Say whether messages, logs and store can carry a path."""
    return path.isprintable()


def _sendable(key: str, directory: Path) -> Path:
    """Return a directory if messages, logs and store can carry its name."""
    if is_sendable(str(directory)):
        return directory
    raise ValueError(
        f"{key}: {str(directory)!r} is not printable UTF-8, and no message could carry it;"
        f" set [node] {key.removeprefix('node.')} to another directory"
    )


def _given(key: str, written: str | None, told: str) -> Path | None:
    """Return a directory of the dispatcher that runs this task, or else as the file has it now."""
    if told.startswith("/"):
        return Path(told)
    return None if written is None else _absolute(key, written)


def _systemd_directory(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the first directory that systemd made for this service, if it made one."""
    first = environ.get(name, "").partition(":")[0]
    return Path(first) if first.startswith("/") else None


def _hash_of(state_dir: Path) -> str:
    """Return a short name of a state directory that every spelling of its path leads to."""
    from hashlib import sha256  # noqa: PLC0415 - not every submit comes here

    return sha256(os.fsencode(os.path.realpath(state_dir))).hexdigest()[:8]


def _absolute(key: str, text: str) -> Path:
    if "\0" in text or not text.startswith(("/", "~/")):
        raise ValueError(f"{key}: {text!r} is not an absolute path; begin it with / or ~/")
    return Path(os.path.normpath(_home() / text[2:] if text[0] == "~" else text))


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise ValueError("node.state_dir: this user has no home directory; set it") from None


def _store_url(settings: Settings, state_dir: Path, environ: Mapping[str, str]) -> str:
    url = environ.get(STORE) or settings.store.url
    if url is None:
        return f"sqlite://{state_dir / 'tasks.db'}"
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator:
        # Not repeated in the message: the URL of a server may hold its password.
        raise ValueError(
            "store.url: only SQLite is known;"
            ' write for example: url = "sqlite:///var/lib/dispatcher/tasks.db"'
        )
    if "/" not in path.strip("/") or "\0" in path:
        raise ValueError(
            f"store.url: {path!r} is not the whole path of a file;"
            ' write for example: url = "sqlite:///var/lib/dispatcher/tasks.db"'
        )
    if not is_sendable(path):
        raise ValueError(
            f"store.url: {path!r} is not printable UTF-8, and no message could carry it;"
            " let it name another file"
        )
    return f"sqlite:///{path.lstrip('/')}"
