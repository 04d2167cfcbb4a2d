"""Opens a store by its URL: creates one that never existed, refuses a lost or replaced one.

A store on a server is opened by `shared`, which only then is imported, with its driver.
"""

from __future__ import annotations

import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dispatcher.errors import (
    CommitUnknown,
    ConfigError,
    DispatcherError,
    StoreUnavailable,
    StoreUnusable,
    cannot_write,
)
from dispatcher.host import files, owner
from dispatcher.host.locks import FileLock, lock_file
from dispatcher.store import migrate, migrations
from dispatcher.store.api import Store
from dispatcher.store.bell import NO_BELL, Bell
from dispatcher.store.clock import Clock
from dispatcher.store.drafts import draft_of, name_finished, remove_abandoned
from dispatcher.store.filesystems import MOUNTINFO, refuse_place
from dispatcher.store.names import DRAFT, side_files
from dispatcher.store.schema import USUAL_NAME, Made, ignored, is_shared
from dispatcher.store.sql import SqlStore
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.store.sqlite_errors import too_few_files
from dispatcher.times import HOST_CLOCK, HostClock

if TYPE_CHECKING:
    from dispatcher.store.server import DatabaseServer

_SQLITE: Final = "sqlite://"
_IN_MEMORY: Final = ("", "/:memory:")


def open_store(
    url: str,
    *,
    state_dir: Path,
    patience: float,
    create: bool = True,
    upgrade: bool = False,
    schema: str = USUAL_NAME,
    clock: HostClock = HOST_CLOCK,
    mountinfo: Path = MOUNTINFO,
    bell: Bell = NO_BELL,
    made: Made = ignored,
) -> Store:
    """Open the store that `url` names: ``sqlite:///PATH``, or ``sqlite://`` for one in memory.

    A connection URI of libpq, ``postgresql://…``, names a shared one, in a `schema` there. A
    transaction waits up to `patience` seconds for other writers; `clock` is the host's; `bell` is
    rung for the daemon of an embedded store. With `create`, a missing database is created unless
    the state directory remembers one; `made` is called for a shared one. `upgrade` upgrades an
    older schema: only a holder of `lock_database` may, as a daemon may use the old one. The state
    directory remembers its first store's identity, to which the caller compares a later one's.

    Raises `ConfigError` for a URL that names no store, `StoreUnusable` for a database that is lost,
    replaced, damaged or cannot be created, `StoreUnavailable` for one that does not answer in time.
    """
    path = database_path(url)
    if is_shared(url):
        store = open_on_server(
            *(url, schema, state_dir, patience, made), create=create, upgrade=upgrade, clock=clock
        )
        return _remembered(state_dir, store)
    if path is None:
        engine = SqliteEngine(None, patience=patience)
        return SqlStore(engine, migrate.create(engine), Clock(clock), bell)
    refuse_place(path, mountinfo)
    _ensure_exists(path, state_dir, create=create)
    owner.refuse_foreign(state_dir, path)
    engine = SqliteEngine(path, patience=patience)
    store = SqlStore(engine, _adopt(engine, path, upgrade=upgrade), Clock(clock), bell)
    return _remembered(state_dir, store)


def _remembered(state_dir: Path, store: SqlStore) -> SqlStore:
    """Record a state directory's first store; close the store if that fails."""
    try:
        if remembered_identity(state_dir) is None:
            remember_identity(state_dir, store.identity)
    except BaseException:
        store.close()
        raise
    return store


def _adopt(engine: SqliteEngine, path: Path, *, upgrade: bool) -> str:
    try:
        return migrate.adopt(engine, migrations.MIGRATIONS, name=str(path), upgrade=upgrade)
    except BaseException:
        engine.close()
        raise


def open_on_server(
    url: str,
    schema: str,
    state_dir: Path,
    patience: float,
    made: Made = ignored,
    *,
    create: bool,
    upgrade: bool = False,
    clock: HostClock = HOST_CLOCK,
) -> SqlStore:
    """Open a shared store as `open_store`, but leave the state directory as it is."""
    server = server_of(url, schema, patience=patience)
    from dispatcher.store import shared  # noqa: PLC0415 - with the driver

    known = remembered_identity(state_dir)
    return shared.open_shared(
        server,
        remembered=known and f"{_identity_file(state_dir)} remembers its store {known}",
        create=create,
        upgrade=upgrade,
        clock=clock,
        made=made,
    )


def server_of(url: str, schema: str, *, patience: float) -> DatabaseServer:
    """Return a shared store's server. Raises `ConfigError`, also without the driver."""
    try:
        from dispatcher.store.server import DatabaseServer  # noqa: PLC0415 - with the driver
    except ImportError as error:
        raise ConfigError(
            f"store.url: a server needs a driver, which is not installed ({error}); "
            "install it, in the dispatcher's directory: pip install '.[postgres]'"
        ) from error
    return DatabaseServer.of(url, schema=schema, patience=patience)


def database_path(url: str) -> Path | None:
    """Return the database file of a store URL; None for a store in memory, or on a server.

    Raises `ConfigError` when the URL names no store.
    """
    if is_shared(url):
        return None
    path = url.removeprefix(_SQLITE)
    if path != url and path in _IN_MEMORY:
        return None
    # Other programs take three slashes for a relative path, and four for an absolute one.
    if path == url or not path.startswith("/") or len(Path(path).parts) < 3:
        raise ConfigError(
            f"store.url: {url!r} is not sqlite:// and an absolute path, "
            "as in sqlite:///var/lib/dispatcher/tasks.db"
        )
    return Path("/" + path.lstrip("/"))


def lock_database(url: str, *, state_dir: Path) -> FileLock:
    """Lock a database file for one daemon, this process, and remove abandoned drafts next to it.

    Raises `AlreadyHeld`, which names the holder's pid and state directory; `ConfigError` for a URL
    that names no store; `StoreUnusable` if its directory cannot be created.
    """
    path = database_path(url)
    if path is None:
        return FileLock(None)
    try:
        path = _with_directory(path)
    except OSError as error:
        raise _denied(error) from error
    holder = f"state directory {state_dir}"
    held = lock_file(Path(f"{path}.lock"), f"the database {path}", holder=holder)
    remove_abandoned(path.parent)
    return held


def remembered_identity(state_dir: Path) -> str | None:
    """Return the identity of the store that a state directory used last; None if none yet."""
    file = _identity_file(state_dir)
    try:
        return files.read(file).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except files.Unfit as error:
        remedy = "restore it from a backup, or remove it to go by the database that is there"
        raise StoreUnusable(f"{file} {error.strerror}; {remedy}") from error
    except OSError as error:
        raise _denied(error) from error


def remember_identity(state_dir: Path, identity: str) -> None:
    """Record, atomically, which store a state directory uses."""
    file = _identity_file(state_dir)
    try:
        owner.make(state_dir)
        files.replace(file, f"{identity}\n", durable=True)
    except OSError as error:
        raise _denied(error, file) from error


def _identity_file(state_dir: Path) -> Path:
    return state_dir / "store-id"


def is_there(path: Path) -> bool:
    """Return whether a database exists. Raises like `open_store` if that is unknown."""
    return _size(path) is not None


def _size(path: Path) -> int | None:
    """Return a file's size without opening it (see `sqlite`); None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _denied(error) from error
    if not stat.S_ISREG(status.st_mode):
        raise StoreUnusable(f"{path} is not a file; let store.url name one")
    return status.st_size


def _ensure_exists(path: Path, state_dir: Path, *, create: bool) -> None:
    """Create a database that never existed; refuse one that was lost."""
    if _size(path) is None:
        _refuse_lost(path, state_dir)
        if not create:
            raise StoreUnusable(f"{path} does not exist; the first `dispatcher run` makes it")
        _create(path)
    if _size(path) == 0:
        raise StoreUnusable(
            f"{path} is empty, and an existing file is never replaced; "
            "restore it from a backup, or remove it"
        )


def _refuse_lost(path: Path, state_dir: Path) -> None:
    """Raise `StoreUnusable` if there was a database before."""
    wal = Path(f"{path.resolve()}-wal")
    has_wal, identity = wal.exists(), remembered_identity(state_dir)
    # Checked last: another process that just created the database did so before these.
    if _size(path) is not None:
        return
    if has_wal or identity is not None:
        known = f"{_identity_file(state_dir)} remembers its store {identity}"
        # SQLite would replay a WAL into the new database.
        sign = f"{wal} holds its last commits" if has_wal else known
        raise StoreUnusable(
            f"{path} is missing, and {sign}; "
            "restore it from a backup, or remove that file to start again without its tasks"
        )


def _create(path: Path) -> None:
    """Create a complete database as a draft, and name it unless another process was faster."""
    try:
        path = _with_directory(path)
        with draft_of(path) as draft:
            try:
                with closing(SqliteEngine(draft, patience=0)) as engine:
                    migrate.create(engine)
            except (StoreUnavailable, CommitUnknown) as error:
                raise _no_room(path) from error
            # SQLite removes the WAL once all of it is in the database.
            if side_files(draft)[0].exists():
                raise _no_room(path)
            with suppress(FileExistsError):
                name_finished(draft, path)
    except OSError as error:
        raise _denied(error, path) from error


def _with_directory(path: Path) -> Path:
    """Create the directory of a database if missing; return the path without links."""
    real = path.resolve()
    owner.make(real.parent)
    owner.refuse_foreign(path)
    return real


def _no_room(path: Path) -> StoreUnavailable:
    remedy = too_few_files() or "is there room on its disk?"
    return StoreUnavailable(f"{path} could not be made; {remedy}")


def _denied(error: OSError, path: Path | None = None) -> DispatcherError:
    named = error.filename
    if path is not None and (named is None or DRAFT in str(named)):
        named = path
    remedy = "the store and its state directory need this user's permission to write"
    if isinstance(error, PermissionError) and named is not None:
        remedy = owner.remedy_if_foreign(Path(named)) or remedy
    return cannot_write(str(named), error, remedy, StoreUnusable)
