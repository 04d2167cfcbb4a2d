"""The checks of a host, its directories, its store, and its processes.

They change nothing, and read the database only through a connection: see `store.sqlite`.
"""

import os
import platform
import stat
from collections.abc import Iterator
from pathlib import Path

from dispatcher import wire
from dispatcher.calendar import Calendar
from dispatcher.config import of_service
from dispatcher.config.config import Config
from dispatcher.doctor import named_files
from dispatcher.doctor.finding import Finding, bad, counts, from_error, ok, skipped, warning
from dispatcher.doctor.free_space import existing, rooms
from dispatcher.doctor.processes import how_to_restart, processes
from dispatcher.doctor.server import server
from dispatcher.errors import FULL, REMOVED, DispatcherError, StoreUnusable
from dispatcher.executor import journal
from dispatcher.host import holes, locks, owner
from dispatcher.host.node import known_node_id, refuse_copy
from dispatcher.overview import recent_step_text
from dispatcher.store.examine import Examined, Report, examine
from dispatcher.store.filesystems import MOUNTINFO, refuse_place
from dispatcher.store.open import database_path, is_there, remembered_identity
from dispatcher.store.schema import is_shared
from dispatcher.store.sqlite_library import OLDEST_LIBRARY, check_library, library_version

#: Seconds to wait for the store.
PATIENCE = 5.0


def _unreported(_checked: int, _pages: int) -> None: ...


def findings(
    config: Config, *, integrity: Report | None = _unreported, mountinfo: Path = MOUNTINFO
) -> Iterator[Finding]:
    """Check everything; each check comes after those that it depends on.

    `integrity` is called while the pages of the database are checked; None: they are not.
    """
    yield named_files.configuration(config)
    yield from _host()
    if not is_shared(config.store_url):
        yield _sqlite()
    if (remedy := owner.remedy_if_foreign(config.state_dir)) is not None and not _is_open(config):
        yield from_error("state directory", DispatcherError(f"it is not this user's: {remedy}"))
        return  # no other check could see anything
    yield from _state_dir(config)
    yield from _node(config)
    yield from _journal(config)
    yield from rooms(config)
    yield from _output_dir(config)
    yield from _punching(config)
    yield from named_files.profiles(config)
    yield from named_files.secrets(config)
    yield from named_files.textfile(config)
    yield from named_files.peers(config)
    yield from _sockets(config)
    yield from _filesystem(config, mountinfo, integrity)
    yield from processes(config)


def _is_open(config: Config) -> bool:
    return os.access(config.state_dir, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def _host() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    text = f"Linux {release}, Python {platform.python_version()}, dispatcher {wire.RELEASE}"
    if numbers < (5, 4):
        yield bad("host", text, "upgrade the kernel to 5.4 or later: it needs pidfds")
    else:
        yield ok("host", text)
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    manager = "systemd" if Path("/run/systemd/system").exists() else "no systemd"
    yield ok("manager", f"{manager}, cgroup {'v2' if unified else 'v1 or none'}")


def _sqlite() -> Finding:
    version = ".".join(map(str, library_version()))
    try:
        check_library()
    except DispatcherError as error:
        return from_error("sqlite", error)
    return ok("sqlite", f"{version}, at least {'.'.join(map(str, OLDEST_LIBRARY))}")


def _state_dir(config: Config) -> Iterator[Finding]:
    directory = config.state_dir
    try:
        found = directory.stat()
    except FileNotFoundError:
        yield warning("state directory", f"{directory} is not there", _makes(config))
        return
    except OSError as error:
        yield bad("state directory", f"{directory}: {error.strerror}", "run this as its user")
        return
    mode = stat.S_IMODE(found.st_mode)
    text = f"{directory}, mode {mode:04o}"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield bad(
            "state directory",
            f"{text}: not writable by this user",
            f"chown it, or run as uid {found.st_uid}",
        )
    elif mode & 0o077:
        remedy = f"chmod 700 {directory}: it holds tasks' environments and output"
        yield warning("state directory", f"{text}: others may enter it", remedy)
    else:
        yield ok("state directory", text)


def _makes(config: Config) -> str:
    return f"the daemon makes it: {config.start_command()}"


def _node(config: Config) -> Iterator[Finding]:
    try:
        node = known_node_id(config.state_dir)
        if node is not None:
            refuse_copy(node, config.state_dir)
    except DispatcherError as error:
        yield from_error("node id", error)
        return
    later = "; `dispatcher run` makes sure that no other host has it"
    text = node and (node + later if is_shared(config.store_url) else node)
    yield ok("node id", text or "none yet: the first start makes it")


def _journal(config: Config) -> Iterator[Finding]:
    """Check that an executor can read its predecessor's journal."""
    path = config.state_dir / "executor.journal"
    try:
        with journal.opened(str(path)):
            yield ok("journal", f"{path} can be read")
    except FileNotFoundError:
        yield ok("journal", "none yet: the executor makes it")
    except DispatcherError as error:
        yield from_error("journal", error)


def _output_dir(config: Config) -> Iterator[Finding]:
    """Report an output directory that is missing while a daemon runs."""
    runs = locks.holder_of(config.state_dir / locks.DAEMON_LOCK) is not None
    if runs and not config.output_dir.exists():
        text = f"{config.output_dir} was removed, with the output of runs"
        yield warning("output", text, "the next run makes it again; if none starts: dispatcher why")


def _punching(config: Config) -> Iterator[Finding]:
    place = existing(config.output_dir)
    text = f"holes in files of {place}"
    error = holes.try_punching(str(place))
    if error is None:
        yield ok("output budget", f"{text} can be punched")
    elif error.errno in holes.UNSUPPORTED:
        remedy = "put [node] state_dir on ext4, xfs, btrfs or tmpfs; else output grows unbounded"
        yield warning("output budget", f"{text}: {error.strerror}", remedy)
    elif not place.is_dir():
        yield bad("output", f"{place} is not a directory", "move it away: the next run makes one")
    elif error.errno in FULL:
        remedy = f"make room on the filesystem of {place}"
        yield bad("output", f"nothing can be written in {place}: {error.strerror}", remedy)
    else:
        remedy = "chown it to the daemon's user, or run this as that user"
        yield bad("output", f"nothing can be written in {place}: {error.strerror}", remedy)


def _sockets(config: Config) -> Iterator[Finding]:
    text = f"{config.runtime_dir}, short enough for their paths"  # there is no config otherwise
    try:
        config.runtime_dir.stat()
    except OSError as error:
        their_locks = (config.state_dir / name for name in (locks.EXECUTOR_LOCK, locks.DAEMON_LOCK))
        is_in_use = any(locks.holder_of(lock) is not None for lock in their_locks)
        if error.errno in REMOVED and is_in_use:
            text = f"{config.runtime_dir} was removed while it is in use"
            yield warning("sockets", text, "if it does not come back: see the logs, runtime.lost")
            return
        if isinstance(error, FileNotFoundError):
            yield ok("sockets", f"{text}, made at start")
            return
        closed = named_files.closed_above(config.runtime_dir)
        remedy = "run this as its user" if closed is None else of_service.enter(closed)
        yield bad("sockets", f"{config.runtime_dir}: {error.strerror}", remedy)
        return
    if not os.access(config.runtime_dir, os.W_OK | os.X_OK):
        remedy = "chown it to the daemon's user, or run this as that user"
        yield bad("sockets", f"{config.runtime_dir} is not writable by this user", remedy)
    else:
        yield ok("sockets", text)


def _filesystem(config: Config, mountinfo: Path, integrity: Report | None) -> Iterator[Finding]:
    path = database_path(config.store_url)
    if path is None:
        yield from server(config, whole=integrity is not None)
        return
    try:
        refuse_place(path, mountinfo)
    except StoreUnusable as error:
        yield from_error("filesystem", error)
    else:
        yield ok("filesystem", f"{path.parent} is on a local one")
        yield from _store(config, integrity)


def _store(config: Config, integrity: Report | None) -> Iterator[Finding]:
    path = database_path(config.store_url)
    if path is None:
        return
    try:
        remembered = remembered_identity(config.state_dir)
        there = is_there(path)
        if not there and remembered is None:
            yield warning("store", f"{path} is not there", "the first submit or start makes it")
            return
        if not there:
            remedy = f"restore it from a backup, or see the message of `{config.start_command()}`"
            yield bad("store", f"{path} is missing, and it was there", remedy)
            return
        found = examine(path, patience=PATIENCE, check=integrity)
    except (DispatcherError, OSError) as error:
        yield from_error("store", error)
        return
    text = f"{path}, schema {found.schema}"
    if found.schema < found.known:
        remedy = "start the daemon, or run: dispatcher migrate"
        if locks.holder_of(config.state_dir / locks.DAEMON_LOCK) is not None:
            remedy = f"the daemon works with the older one; {how_to_restart(config)}"
        yield bad("store", f"{text}, older than {found.known}", remedy)
    elif found.is_newer:
        yield bad("store", f"{text}, newer than {found.known}", "upgrade this dispatcher")
    else:
        yield ok("store", text)
    if found.calendar is not None:
        yield _clock(found.calendar)
    yield _integrity(found.problems)
    if found.wrong_counts is not None or found.problems is None:
        yield counts(found.wrong_counts)
    yield _identity(found, remembered)


def _integrity(problems: tuple[str, ...] | None) -> Finding:
    if problems is None:
        return skipped("integrity", "no page was checked", "without --quick, all are")
    if problems:
        remedy = "stop the daemon, then: dispatcher restore FILE"
        return bad("integrity", "; ".join(problems), remedy)
    return ok("integrity", "every page was read, and is whole")


def _identity(found: Examined, remembered: str | None) -> Finding:
    if remembered in (None, found.identity):
        return ok("store identity", found.identity)
    if remembered not in found.lineage:
        return bad(
            "store identity",
            f"it is {found.identity}, and this state directory worked with {remembered}",
            "let store.url name that one; or, when none of its runs live, start the daemon",
        )
    text = f"{found.identity}, restored in the place of {remembered}"
    return ok("store identity", f"{text}; the next daemon takes it once none of its runs live")


def _clock(calendar: Calendar) -> Finding:
    if (text := recent_step_text(calendar)) is None:
        return ok("clock", "the host's clock was not set within a day")
    return warning("clock", text, "see that time is kept, e.g. timedatectl timesync-status")
