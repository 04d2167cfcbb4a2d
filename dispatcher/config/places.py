"""Where a user's own file, a node's directories and its store are: environment, file, or default.

An impossible place raises ValueError with the remedy.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from dispatcher.config.settings import Settings
from dispatcher.host import sockets
from dispatcher.host.owner import belongs_to_root_alone, have_same_owner
from dispatcher.store.schema import NO_NAME, is_name, is_shared

#: The variables by which a worker finds the dispatcher that runs it, however its file changes.
STATE = "DISPATCHER_STATE_DIR"
RUNTIME = "DISPATCHER_RUNTIME_DIR"
STORE = "DISPATCHER_STORE_URL"
SOCKET = "DISPATCHER_SOCKET"


def state_directory(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return where this node keeps its files."""
    return _sendable("node.state_dir", _state_directory(settings, environ))


def _state_directory(settings: Settings, environ: Mapping[str, str]) -> Path:
    if given := _given("node.state_dir", settings.node.state_dir, environ.get(STATE, "")):
        return given
    if made := _systemd_directory(environ, "STATE_DIRECTORY"):
        return made
    base = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    home = Path(base) if base.startswith("/") else _home() / ".local" / "state"
    return home / "dispatcher"


def runtime_directory(settings: Settings, state_dir: Path, environ: Mapping[str, str]) -> Path:
    """Return where this node's sockets are."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    if given := _given("node.runtime_dir", settings.node.runtime_dir, environ.get(RUNTIME, "")):
        chosen = given
    elif made := _systemd_directory(environ, "RUNTIME_DIRECTORY"):
        chosen = made
    elif base.startswith("/") and have_same_owner(Path(base), state_dir):
        chosen = Path(base) / f"dispatcher-{_hash_of(state_dir)}"
    else:
        chosen = state_dir / "run"
    longest = os.fsencode(chosen / "notify" / ("0" * 32))  # of a run's uid
    if len(longest) > sockets.MAX_PATH:
        raise ValueError(
            f"node.runtime_dir: {chosen}/notify/<run uid> has {len(longest)} bytes and a socket's"
            f" path at most {sockets.MAX_PATH}; set [node] runtime_dir to a shorter directory"
        )
    return _sendable("node.runtime_dir", chosen)


def store_url(settings: Settings, state_dir: Path, environ: Mapping[str, str]) -> str:
    url = environ.get(STORE) or settings.store.url
    if url is None:
        return f"sqlite://{state_dir / 'tasks.db'}"
    if is_shared(url):
        return _server(url)
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator:
        # Not repeated in the message: the URL of a server may hold its password.
        raise ValueError(
            "store.url: only SQLite and PostgreSQL are known;"
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


def _server(url: str) -> str:
    """Return the URL of a server. Every task sees it, so a password in it is refused."""
    from urllib.parse import parse_qsl, urlsplit  # noqa: PLC0415 - an embedded store needs none

    parts = urlsplit(url)
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.password is not None or names & {"password", "sslpassword"}:
        raise ValueError(
            "store.url: it holds a password, and every task would see it in its environment;"
            " put it into a password file (~/.pgpass or PGPASSFILE), or a service file"
        )
    if not is_sendable(url):
        raise ValueError("store.url: it is not printable; write %20 for a blank")
    return url


def store_schema(settings: Settings) -> str:
    """Return the name of the store's schema on a server."""
    if not is_name(settings.store.schema):
        raise ValueError(f"store.schema: {settings.store.schema!r} {NO_NAME}")
    return settings.store.schema


def is_sendable(path: str) -> bool:
    """Return whether messages, logs and the store can carry a path."""
    return path.isprintable()


def _sendable(key: str, directory: Path) -> Path:
    if is_sendable(str(directory)):
        return directory
    raise ValueError(
        f"{key}: {str(directory)!r} is not printable UTF-8, and no message could carry it;"
        f" set [node] {key.removeprefix('node.')} to another directory"
    )


def _given(key: str, written: str | None, of_this_run: str) -> Path | None:
    """Return a directory of the dispatcher that runs this process, else the file's."""
    if of_this_run.startswith("/"):
        return Path(of_this_run)
    if written is None:
        return None
    if "\0" in written or not written.startswith(("/", "~/")):
        raise ValueError(f"{key}: {written!r} is not an absolute path; begin it with / or ~/")
    return Path(os.path.normpath(_home() / written[2:] if written[0] == "~" else written))


def _systemd_directory(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the first directory that systemd made for this service, if it made one."""
    first = environ.get(name, "").partition(":")[0]
    return Path(first) if first.startswith("/") else None


def _hash_of(state_dir: Path) -> str:
    """Return a short name of a state directory, the same for every spelling of its path."""
    from hashlib import sha256  # noqa: PLC0415 - most submits need none

    return sha256(os.fsencode(os.path.realpath(state_dir))).hexdigest()[:8]


def config_home(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of this user's configuration files; None without a home."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return Path(base)
    try:
        return Path.home() / ".config"
    except RuntimeError:
        return None


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Return this user's own file if it exists, or if that cannot be found out.

    The directory must be this user's own: `runuser` and `setpriv` keep another user's HOME. Reading
    the file reports why it cannot be found. `sudo` and `su` may keep another user's HOME or
    XDG_CONFIG_HOME too: root's own file is one that root can look at, and owns with all its path.
    """
    home = config_home(environ)
    if home is None:
        return None
    file = home / "dispatcher" / "dispatcher.toml"
    if os.geteuid() == 0:
        return file if belongs_to_root_alone(file) else None
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # as EACCES, EIO, ESTALE: it may be there
        pass
    return file if _is_own(file.parent) else None


def _is_own(directory: Path) -> bool:
    """Return whether one of the last three directories of a path belongs to this user.

    If all three are hidden from this user, the owner of the directory that hides them counts.
    """
    for place in (directory, *directory.parents):
        try:
            if place.stat().st_uid == os.geteuid():
                return True
        except (FileNotFoundError, PermissionError):
            continue
        except OSError:  # as EIO, ESTALE
            return True
        if place not in {directory, directory.parent}:
            return False
    return False


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise ValueError("node.state_dir: this user has no home directory; set it") from None
