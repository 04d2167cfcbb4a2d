"""Output files of runs: whether a process still writes to one, and the one way to remove them.

An output file is also the lock that prevents a twin: it stays as long as a process has it open as
its run's output. The lock is tried as a shared one, as the executor tries a former run's, so that
neither takes the other for a survivor.
"""

import errno
import fcntl
import os
import re
import stat

#: The name of a run's output: the run's uid.
NAME = re.compile(r"([0-9a-f]{32})\.log")

#: Never blocks: neither on a FIFO nor on a file server's lease.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def opened(path: str) -> int:
    """Return a descriptor to read an output. Raises OSError, also for anything but a file."""
    descriptor = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return descriptor


def relocated(path: str, output_dir: str) -> str:
    """Return the path of a run's output in this directory, after its state directory was moved.

    Its name is its run's uid, which is unique.
    """
    return f"{output_dir}/{path.rpartition('/')[2]}"


def remove(path: str) -> int | None:
    """Remove the output file of a run that is over; return the bytes of disk that it took.

    None: a process still has it open as its run's output, and it stays. -1: it is missing, cannot
    be removed, or is not named as an output. An empty file's lock is not tried: an executor may be
    renaming the file for a start. Delete the run's row first, and commit: a crash then leaves a
    file without a run, which is found by its age.
    """
    if not NAME.fullmatch(path.rpartition("/")[2]):
        return -1
    try:
        found = os.lstat(path)
        if found.st_size:
            descriptor = _locked(path)
            try:
                os.unlink(path)  # noqa: PTH108 - as it is named
            finally:
                os.close(descriptor)
        else:
            os.unlink(path)  # noqa: PTH108
    except BlockingIOError:
        return None
    except OSError:
        return -1
    return found.st_blocks * 512


def is_held(path: str) -> bool:
    """Return whether a process still has a file open as its run's output. Raises OSError."""
    try:
        os.close(_locked(path))
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def _locked(path: str) -> int:
    """Return a descriptor that shares the lock.

    Raises BlockingIOError when a run's process has it, and the file's own OSErrors.
    """
    try:
        descriptor = os.open(path, _READ)
    except PermissionError:
        _make_readable(path)
        descriptor = os.open(path, _READ)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_readable(path: str) -> None:
    """Restore our access to a file whose mode its worker changed. Raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.chmod(f"/proc/self/fd/{descriptor}", 0o600)  # noqa: PTH101 - the file, not its name
    finally:
        os.close(descriptor)
