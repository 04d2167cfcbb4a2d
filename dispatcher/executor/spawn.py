"""Starting a run's leader, and saying in words whose fault it is when that fails."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dispatcher import wire
from dispatcher.executor.outputs import OutputLocked, Outputs

#: What the host ran short of, or broke; anything else is the task's own.
HOST_ERRORS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
    }
)

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

#: Bytes of a script read to name its interpreter: what the kernel itself looks at.
_SHEBANG_BYTES = 256


class CannotStart(Exception):
    """The run has no process: report whose fault it is, and forget the run."""

    def __init__(self, fault: wire.Fault, error: str, number: int | None = None) -> None:
        super().__init__(error)
        self.fault = fault
        self.error = error
        self.errno = number


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what every task inherits of the executor's environment, and its outer markers."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in wire.ENVIRONMENT_ALLOWED or name.startswith("LC_")
    }
    outer = [environ[name] for name in (wire.MARKER, wire.OUTER_MARKER) if environ.get(name)]
    if outer:
        kept[wire.OUTER_MARKER] = ":".join(outer)
    return kept


class Spawner:
    """Starts leaders: own session, built environment, default signals, payload on stdin."""

    def __init__(
        self,
        outputs: Outputs,
        *,
        environ: Mapping[str, str],
        open_files: tuple[int, int],
    ) -> None:
        """`open_files` are the limits that children get, whatever ours are."""
        self._outputs = outputs
        self._environment = inherited(environ)
        self._open_files = open_files
        self._home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._ignored = [s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN]

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._home)
        os.close(self._null)

    def start(self, start: wire.Start) -> int:
        """Return the pid of a started leader; raise CannotStart when there is none."""
        output = self._open_output(start)
        try:
            return self._spawn(start, output)
        finally:
            os.close(output)

    def _open_output(self, start: wire.Start) -> int:
        previous, path = start.previous_output_path, start.output_path
        try:
            if previous is not None and self._outputs.is_locked(previous):
                path = previous
                raise OutputLocked
            return self._outputs.open(path)
        except OutputLocked:
            raise CannotStart(
                wire.Fault.PREDECESSOR, f"processes of an earlier run still write to {path}"
            ) from None
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else None
            raise CannotStart(
                wire.Fault.HOST, f"cannot open the output file: {error}", number
            ) from error

    def _spawn(self, start: wire.Start, output: int) -> int:
        environment = {**self._environment, **start.env}
        program = ""
        try:
            with self._input(start.payload) as stdin, self._circumstances(start):
                program = find_program(start.command, environment.get("PATH", os.defpath))
                return os.posix_spawn(
                    program,
                    start.command,
                    environment,
                    file_actions=(
                        (os.POSIX_SPAWN_DUP2, stdin, 0),
                        (os.POSIX_SPAWN_DUP2, output, 1),
                        (os.POSIX_SPAWN_DUP2, output, 2),
                    ),
                    setsid=True,
                    setsigmask=(),
                    setsigdef=self._ignored,
                )
        except ValueError as error:  # a NUL in a word, "=" in a variable's name, no command
            raise CannotStart(wire.Fault.TASK, f"cannot be a command line: {error}") from error
        except OSError as error:
            fault = wire.Fault.HOST if error.errno in HOST_ERRORS else wire.Fault.TASK
            raise CannotStart(fault, explain(error, program, start), error.errno) from error

    @contextmanager
    def _input(self, payload: str | None) -> Iterator[int]:
        if payload is None:
            yield self._null
            return
        memory = os.memfd_create("payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(payload.encode())
            while rest:
                rest = rest[os.write(memory, rest) :]
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            os.lseek(memory, 0, os.SEEK_SET)
            yield memory
        finally:
            os.close(memory)

    @contextmanager
    def _circumstances(self, start: wire.Start) -> Iterator[None]:
        """Set what a child inherits and posix_spawn cannot set; nothing else runs meanwhile."""
        ours = resource.getrlimit(resource.RLIMIT_NOFILE)
        umask = os.umask(start.umask)
        try:
            enter(start.cwd or "/")
            resource.setrlimit(resource.RLIMIT_NOFILE, self._open_files)
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, ours)
            os.fchdir(self._home)
            os.umask(umask)


def enter(directory: str) -> None:
    """Make `directory` the working directory; CannotStart when it is the task's mistake."""
    try:
        os.chdir(directory)
    except OSError as error:
        if error.errno in HOST_ERRORS:
            raise
        words = {
            errno.ENOENT: "no such working directory",
            errno.ENOTDIR: "the working directory is not a directory",
            errno.EACCES: "no permission to enter the working directory",
        }
        text = words.get(error.errno or 0, f"working directory: {error.strerror}")
        raise CannotStart(wire.Fault.TASK, f"{text}: {directory}", error.errno) from error


def find_program(command: tuple[str, ...], search: str) -> str:
    """Return the program's path, relative to the working directory as the child sees it."""
    if not command:
        raise ValueError("it is empty")
    name = command[0]
    if "/" in name:
        return name
    unusable = None
    for directory in search.split(":"):
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            unusable = unusable or path
    if unusable:
        raise CannotStart(wire.Fault.TASK, f"not executable: {unusable}", errno.EACCES)
    raise CannotStart(
        wire.Fault.TASK, f"no such program: {name!r} (PATH is {search!r})", errno.ENOENT
    )


def explain(error: OSError, program: str, start: wire.Start) -> str:
    """Say what was wrong with a program that could not be executed; `program` names it."""
    where = os.path.join(start.cwd or "/", program)
    match error.errno:
        case errno.E2BIG:
            size = sum(map(len, (*start.command, *start.env, *start.env.values())))
            return f"arguments and environment are too large: {size} characters"
        case errno.ENOEXEC:
            return f"not in an executable format (a script needs a #! line): {where}"
        case errno.ENOENT if os.path.exists(where):
            named = interpreter(where) or "its loader"
            return f"missing interpreter: {where} needs {named}, which does not exist"
        case errno.ENOENT | errno.ENOTDIR:
            return f"no such program: {where}"
        case errno.EACCES if os.path.isdir(where):
            return f"not executable: {where} is a directory"
        case errno.EACCES if os.access(where, os.X_OK) and (named := interpreter(where)):
            return f"not executable: {named}, the interpreter of {where}"
        case errno.EACCES if os.path.exists(where):
            mode = stat.S_IMODE(os.stat(where).st_mode)
            return f"not executable: {where} (mode {mode:04o})"
        case _:
            return f"cannot start {where}: {error.strerror}"


def interpreter(script: str) -> str | None:
    """Return what the #! line of a file names; None when it has none."""
    try:
        with open(script, "rb") as file:
            first, _, _ = file.read(_SHEBANG_BYTES).partition(b"\n")
    except OSError:
        return None
    words = first[2:].split() if first.startswith(b"#!") else []
    return words[0].decode(errors="replace") if words else None
