"""Starting a run's leader, and naming whose fault it is when that fails."""

import errno
import os
import resource
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from dispatcher import wire, worker_api
from dispatcher.errors import HOST_TROUBLE
from dispatcher.executor.output.files import OutputFiles, OutputLocked
from dispatcher.executor.starting.explain import explain, shows_path
from dispatcher.executor.starting.small_table import SmallTable
from dispatcher.executor.system.oom import OomScore
from dispatcher.host.files import sealed_file
from dispatcher.host.marks import mark_of, why_unmarked

#: Characters of a PATH that are shown where a program is not in it.
MOST_OF_PATH = 80

#: Live runs, with two descriptors each, from which on a spawn with a small table is cheaper.
MANY_RUNS = 100


class CannotStart(Exception):
    """The run has no process: report the fault and forget the run."""

    def __init__(self, fault: wire.Fault, error: str) -> None:
        super().__init__(error)
        self.fault = fault
        self.error = error

    @classmethod
    def without_journal(cls, error: OSError) -> Self:
        """Return the failure of a start that no successor could know of."""
        return cls(wire.Fault.HOST, f"cannot write the journal: {error.strerror}")


class Spawner:
    """Starts leaders: own session, built environment, default signals, payload on stdin."""

    def __init__(
        self,
        outputs: OutputFiles,
        *,
        environ: Mapping[str, str],
        open_files: tuple[int, int],
        oom_score: OomScore | None = None,
    ) -> None:
        """`open_files` are the limits of children, whatever ours are.

        `oom_score` is the protection of this process, which children do not get.
        """
        self._outputs = outputs
        self._oom_score = oom_score
        self._outer = outer_marker(environ)
        self._inherited = {**allowed(environ), **self._outer}
        self._open_files = (resource.getrlimit(resource.RLIMIT_NOFILE), open_files)
        self._real_time = resource.getrlimit(resource.RLIMIT_RTTIME)
        self.why_unmarked = why_unmarked()
        """Why leaders get no mark, and are found by other evidence; None if they get one."""
        self._home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._small_table = SmallTable()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._ignored = [s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN]

    def close(self) -> None:
        os.close(self._home)
        os.close(self._null)
        self._small_table.close()
        if self._oom_score is not None:
            self._oom_score.close()

    def start(self, start: wire.Start) -> int:
        """Return the pid of a started leader. Raises CannotStart."""
        environment = {**(self._inherited if start.inherits else self._outer), **start.env}
        program = ""
        output = self._open_output(start)
        made = [output]
        try:
            refuse_full(output, start.output_path)
            stdin, more = self._null, []
            if start.payload is not None:
                stdin = sealed_file("payload", start.payload.encode())
                made.append(stdin)
            if start.parents is not None:
                more = [sealed_file("parents", start.parents.encode())]
                made += more
            enter(start.cwd or "/")
            program = find_program(start.command, environment, shows_path=shows_path(start))
            return self._spawn(start, program, environment, (stdin, output, *more))
        except ValueError as error:  # a NUL in a word, "=" in a variable's name, no command
            raise CannotStart(wire.Fault.TASK, f"cannot be a command line: {error}") from error
        except OSError as error:
            fault = wire.Fault.HOST if error.errno in HOST_TROUBLE else wire.Fault.TASK
            raise CannotStart(fault, explain(error, program, start)) from error
        finally:
            os.fchdir(self._home)
            for descriptor in made:
                os.close(descriptor)

    def _open_output(self, start: wire.Start) -> int:
        try:
            self._refuse_predecessor(start)
            return self._outputs.open(start.output_path)
        except OutputLocked as error:
            text = f"processes of an earlier run still write to {error}"
            raise CannotStart(wire.Fault.PREDECESSOR, text) from error
        except (OSError, ValueError) as error:
            raise CannotStart(wire.Fault.HOST, f"cannot open the output file: {error}") from error

    def _refuse_predecessor(self, start: wire.Start) -> None:
        """Raise OutputLocked or CannotStart unless all earlier runs are known to be gone."""
        for path in filter(None, (start.previous_output_path, *start.earlier_output_paths)):
            try:
                held = self._outputs.is_locked(path)
            except (OSError, ValueError) as error:
                text = f"it is unknown whether an earlier run lives: {path}: {error}"
                raise CannotStart(wire.Fault.PREDECESSOR, text) from error
            if held:
                raise OutputLocked(path)

    def _spawn(
        self,
        start: wire.Start,
        program: str,
        environment: dict[str, str],
        files: tuple[int, ...],
    ) -> int:
        def spawn(stdin: int, output: int, *more: int) -> int:
            return os.posix_spawn(
                program,
                start.command,
                environment,
                file_actions=(
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                    *((os.POSIX_SPAWN_DUP2, one, worker_api.PARENTS) for one in more),
                ),
                setsid=True,
                setsigmask=(),
                setsigdef=self._ignored,
            )

        many = self._outputs.live > MANY_RUNS and self._small_table.is_there()
        with self._lent_limits(start):
            return self._small_table.spawn(spawn, *files) if many else spawn(*files)

    @contextmanager
    def _lent_limits(self, start: wire.Start) -> Iterator[None]:
        """Take on what a leader inherits: its umask, mark, limit of open files and score."""
        ours, theirs = self._open_files
        soft, hard = self._real_time
        mark = 0 if self.why_unmarked else mark_of(start.uid)
        umask = os.umask(start.umask)
        try:
            if mark:
                _set_limit(resource.RLIMIT_RTTIME, (mark, hard))
            if ours != theirs:
                _set_limit(resource.RLIMIT_NOFILE, theirs)
            if self._oom_score is not None:
                self._oom_score.lend()
            yield
        finally:
            os.umask(umask)
            if self._oom_score is not None:
                self._oom_score.take_back()
            if mark:
                _set_limit(resource.RLIMIT_RTTIME, (soft, hard))
            if ours != theirs:
                _set_limit(resource.RLIMIT_NOFILE, ours)


def _set_limit(what: int, limits: tuple[int, int]) -> None:
    """Set a limit of our own. CannotStart: it was lowered from outside meanwhile."""
    try:
        resource.setrlimit(what, limits)
    except ValueError as error:
        text = f"cannot set a resource limit of the executor: {error}"
        raise CannotStart(wire.Fault.HOST, text) from error


def allowed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a clean task inherits from the executor."""
    return {name: value for name, value in environ.items() if worker_api.is_inherited(name)}


def outer_marker(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variable by which the runs around this executor recognise every task."""
    outer = [
        environ[name] for name in (worker_api.MARKER, worker_api.OUTER_MARKER) if environ.get(name)
    ]
    return {worker_api.OUTER_MARKER: ":".join(outer)} if outer else {}


def refuse_full(output: int, path: str) -> None:
    """Raise CannotStart if nothing can be written to an output: its worker would fail."""
    room = os.fstatvfs(output)
    if room.f_bavail > 0 or room.f_blocks == 0:  # a filesystem without blocks has no limit
        return
    if room.f_bfree == 0 or os.geteuid() != 0:  # root may use the reserve
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        raise CannotStart(wire.Fault.HOST, f"no room for the output: {full}")


def enter(directory: str) -> None:
    """Make `directory` the working directory. CannotStart: the task named a wrong one."""
    try:
        os.chdir(directory)
    except OSError as error:
        if error.errno in HOST_TROUBLE:
            raise
        words = {
            errno.ENOENT: "no such working directory",
            errno.ENOTDIR: "the working directory is not a directory",
            errno.EACCES: "no permission to enter the working directory",
        }
        text = words.get(error.errno or 0, f"working directory: {error.strerror}")
        raise CannotStart(wire.Fault.TASK, f"{text}: {directory}") from error


def find_program(
    command: tuple[str, ...], environment: Mapping[str, str], *, shows_path: bool
) -> str:
    """Return the program's path, relative to the working directory as the child sees it.

    Raises CannotStart, which shows where it searched if `shows_path`.
    """
    if not command:
        raise ValueError("it is empty")
    name, search = command[0], environment.get("PATH", os.defpath)
    if "/" in name:
        return name
    unusable = None
    for directory in search.split(":"):
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            unusable = unusable or path
    beginning = search if len(search) <= MOST_OF_PATH else f"{search[:MOST_OF_PATH]}…"
    path = f"PATH {beginning!r}" if shows_path else "the PATH of its submitter or profile"
    if unusable:
        shown = unusable if shows_path else f"{name!r} (in {path})"
        raise CannotStart(wire.Fault.TASK, f"not executable: {shown}")
    raise CannotStart(wire.Fault.TASK, f"no such program: {name!r} (not in {path})")
