"""What may be wrong with a host, its directories, its store, and the processes on it.

Nothing is changed, and the database is only looked at through a connection: see `store.sqlite`.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import platform
import resource
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dispatcher import control, wire
from dispatcher.config import MAX_SOCKET_PATH, Config
from dispatcher.errors import DispatcherError
from dispatcher.node import known_node_id
from dispatcher.store.examine import examine
from dispatcher.store.filesystems import MOUNTINFO, network_filesystem
from dispatcher.store.open import database_path, remembered_identity
from dispatcher.store.sqlite import OLDEST_LIBRARY, check_library, library_version

#: Seconds that the store gets to answer.
PATIENCE = 5.0

#: Bytes of free space below which work stops soon, and below which it is time to make room.
LEAST_ROOM = 16 << 20
ENOUGH_ROOM = 512 << 20

#: Descriptors that the executor has open for itself, and for each run: pidfd, notify socket, and
#: what a start needs for a moment.
OWN_DESCRIPTORS = 64
DESCRIPTORS_PER_RUN = 4

#: Seconds by which a process's start may seem earlier: it counts from the boot, in whole seconds.
BOOT_ROUNDING = 2.0

#: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, linux/falloc.h.
_PUNCH = 0x01 | 0x02


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    level: Level
    said: str
    remedy: str | None = None
    """What to do; None where nothing needs to be done."""


def ok(check: str, said: str) -> Finding:
    """Return what is as it should be."""
    return Finding(check, Level.OK, said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """Return what works, and may not for long or not as expected."""
    return Finding(check, Level.WARNING, said, remedy)


def bad(check: str, said: str, remedy: str) -> Finding:
    """Return what keeps the dispatcher from working."""
    return Finding(check, Level.BAD, said, remedy)


def findings(config: Config, *, mountinfo: Path = MOUNTINFO) -> Iterator[Finding]:
    """Look at everything, in the order in which one thing needs the other."""
    yield ok("configuration", str(config.file or "built-in defaults: no file"))
    yield from _host()
    yield from _state_dir(config)
    yield from _node(config)
    yield from _rooms(config)
    yield from _punching(config)
    yield from _sockets(config)
    yield from _filesystem(config, mountinfo)
    yield from _store(config)
    yield from _processes(config)


def _told(check: str, error: Exception) -> Finding:
    """Return what an error says, whose messages end with the remedy."""
    said, _, remedy = str(error).partition("; ")
    return bad(check, said, remedy or "see docs/operations.md")


# The host -----------------------------------------------------------------------------------


def _host() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    said = f"Linux {release}, Python {platform.python_version()}, dispatcher {wire.RELEASE}"
    if numbers < (5, 4):
        yield bad("host", said, "upgrade the kernel to 5.4 or later: it needs pidfds")
    else:
        yield ok("host", said)
    version = ".".join(map(str, library_version()))
    try:
        check_library()
    except DispatcherError as error:
        yield _told("sqlite", error)
    else:
        yield ok("sqlite", f"{version}, at least {'.'.join(map(str, OLDEST_LIBRARY))}")
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    manager = "systemd" if Path("/run/systemd/system").exists() else "no systemd"
    yield ok("manager", f"{manager}, cgroup {'v2' if unified else 'v1 or none'}")


# Directories --------------------------------------------------------------------------------


def _state_dir(config: Config) -> Iterator[Finding]:
    directory = config.state_dir
    try:
        found = directory.stat()
    except FileNotFoundError:
        yield warning("state directory", f"{directory} is not there", "dispatcher run makes it")
        return
    except OSError as error:
        yield bad("state directory", f"{directory}: {error.strerror}", "run this as its user")
        return
    mode = stat.S_IMODE(found.st_mode)
    said = f"{directory}, mode {mode:04o}"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield bad(
            "state directory",
            f"{said}: not ours to write",
            f"chown it, or run as uid {found.st_uid}",
        )
    elif mode & 0o077:
        remedy = f"chmod 700 {directory}: it holds tasks' environments and output"
        yield warning("state directory", f"{said}: others may enter it", remedy)
    else:
        yield ok("state directory", said)


def _node(config: Config) -> Iterator[Finding]:
    try:
        node = known_node_id(config.state_dir)
    except DispatcherError as error:
        yield _told("node id", error)
        return
    yield ok("node id", node or "none yet: the first start makes it")


def _rooms(config: Config) -> Iterator[Finding]:
    """Look at the free space of each filesystem that is written to, once."""
    places = {"state directory": config.state_dir, "runtime directory": config.runtime_dir}
    if (database := database_path(config.store_url)) is not None:
        places["database"] = database.parent
    seen: dict[int, list[str]] = {}
    for name, place in places.items():
        with suppress(OSError):
            seen.setdefault(_existing(place).stat().st_dev, []).append(name)
    for names in seen.values():
        place = _existing(places[names[0]])
        room = os.statvfs(place)
        free = room.f_bavail * room.f_frsize
        said = f"{free / 2**20:,.0f} MiB free for {', '.join(names)}"
        if free < LEAST_ROOM or (room.f_files and not room.f_favail):
            files = "" if room.f_favail else ", and no file more"
            yield bad("room", said + files, f"make room on the filesystem of {place}")
        elif free < ENOUGH_ROOM:
            remedy = f"make room on the filesystem of {place}, or: dispatcher prune"
            yield warning("room", said, remedy)
        else:
            yield ok("room", said)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _punching(config: Config) -> Iterator[Finding]:
    """Try to punch a hole into a file without a name."""
    place = _existing(config.output_dir)
    said = f"holes in files of {place}"
    try:
        descriptor = os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        remedy = "look at the growth of what runs write: it could not be tried here"
        yield warning("output budget", f"{said}: {error.strerror}", remedy)
        return
    try:
        os.write(descriptor, bytes(8192))
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        failure = fallocate(descriptor, _PUNCH, 0, 4096) and ctypes.get_errno()
    except OSError as error:
        failure = error.errno or errno.EIO
    finally:
        os.close(descriptor)
    if failure:
        remedy = "put [node] state_dir on ext4, xfs, btrfs or tmpfs; else output grows unbounded"
        yield warning("output budget", f"{said}: {os.strerror(failure)}", remedy)
    else:
        yield ok("output budget", f"{said} can be punched")


def _sockets(config: Config) -> Iterator[Finding]:
    longest = len(os.fsencode(config.executor_socket))
    said = f"{config.runtime_dir}, paths of {longest} of {MAX_SOCKET_PATH} bytes"
    if not config.runtime_dir.exists():
        yield ok("sockets", f"{said}, made at start")
    elif not os.access(config.runtime_dir, os.W_OK | os.X_OK):
        remedy = "chown it to the daemon's user, or run this as that user"
        yield bad("sockets", f"{config.runtime_dir} is not ours to write", remedy)
    else:
        yield ok("sockets", said)


# The store ----------------------------------------------------------------------------------


def _filesystem(config: Config, mountinfo: Path) -> Iterator[Finding]:
    path = database_path(config.store_url)
    if path is None:
        return
    kind = network_filesystem(path.resolve(), mountinfo.read_text("utf-8", "surrogateescape"))
    if kind is None:
        yield ok("filesystem", f"{path.parent} is on a local one")
    else:
        yield bad(
            "filesystem",
            f"{path} is on {kind}, a network filesystem, where SQLite loses data",
            "let store.url name a file on a local disk",
        )


def _store(config: Config) -> Iterator[Finding]:
    path = database_path(config.store_url)
    if path is None:
        return
    try:
        remembered = remembered_identity(config.state_dir)
        if not path.exists() and remembered is None:
            yield warning("store", f"{path} is not there", "the first submit or start makes it")
            return
        if not path.exists():
            remedy = "restore it from a backup, or see what `dispatcher run` says"
            yield bad("store", f"{path} is missing, and it was there", remedy)
            return
        found = examine(path, patience=PATIENCE, whole=True)
    except (DispatcherError, OSError) as error:
        yield _told("store", error)
        return
    said = f"{path}, schema {found.schema}"
    if found.schema < found.known:
        remedy = "start the daemon anew, or run: dispatcher migrate"
        yield bad("store", f"{said}, older than {found.known}", remedy)
    elif found.schema > found.known:
        yield bad("store", f"{said}, newer than {found.known}", "upgrade this dispatcher")
    else:
        yield ok("store", said)
    if found.problems:
        yield bad("integrity", "; ".join(found.problems), "stop the daemon and restore a backup")
    else:
        yield ok("integrity", "every page was read, and is whole")
    if remembered is not None and remembered != found.identity:
        yield bad(
            "store identity",
            f"it is {found.identity}, and this state directory worked with {remembered}",
            "let store.url name that one; or, when none of its runs live, start the daemon",
        )
    else:
        yield ok("store identity", found.identity)


# Processes ----------------------------------------------------------------------------------


def _processes(config: Config) -> Iterator[Finding]:
    try:
        report = control.status(control.find(config))
    except TimeoutError:
        remedy = "see its log; if its loop hangs, restart it: workers go on"
        yield bad("daemon", "one runs and does not answer", remedy)
        return
    if report is None:
        yield warning("daemon", "none runs", "dispatcher run, or systemctl start dispatcher")
        yield ok("executor", "not asked: it answers only a daemon")
        return
    yield _of_release("daemon", report["pid"], report.get("release"), "restart it: workers go on")
    yield from _executor(report)
    pid = report.get("executor_pid") or report["pid"]
    yield from _descriptors(pid, int(report["slots"]))


def _executor(report: Mapping[str, Any]) -> Iterator[Finding]:
    if report["executor"] != "connected":
        remedy = "see executor.log in the state directory, or journalctl -u dispatcher-executor"
        yield bad("executor", f"the daemon says: {report['executor']}", remedy)
        return
    remedy = "restart it when no work is running: its end ends all runs"
    yield _of_release("executor", report["executor_pid"], report.get("executor_release"), remedy)


def _of_release(
    check: str, pid: int, release: str | None, remedy: str, installed: str = wire.RELEASE
) -> Finding:
    """Tell whether a process runs the code that is installed now."""
    if release != installed:
        said = f"pid {pid} answers and runs release {release or 'of before'}, not {installed}"
        return warning(check, said, remedy)
    if _started_before_install(pid):
        return warning(check, f"pid {pid} answers and runs what was installed before", remedy)
    return ok(check, f"pid {pid} answers, release {release}")


def _started_before_install(pid: int, started: Callable[[int], float] | None = None) -> bool:
    """Tell whether a process is older than this package's files; False where nobody knows."""
    import psutil  # noqa: PLC0415 - no other check needs it

    installed = Path(wire.__file__).stat().st_ctime
    try:
        return (started or _create_time)(pid) < installed - BOOT_ROUNDING
    except psutil.Error:
        return False


def _create_time(pid: int) -> float:
    import psutil  # noqa: PLC0415

    return float(psutil.Process(pid).create_time())


def _descriptors(pid: int, slots: int) -> Iterator[Finding]:
    needed = OWN_DESCRIPTORS + DESCRIPTORS_PER_RUN * slots
    try:
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:  # somebody else's process
        return
    said = f"{'no limit' if most < 0 else most} for the executor, {needed} for {slots} slots"
    if 0 <= most < needed:
        yield bad("descriptors", said, "raise LimitNOFILE= or `ulimit -Hn`, or lower [node] slots")
    else:
        yield ok("descriptors", said)
