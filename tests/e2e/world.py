"""The installed command in a world of its own: directories, configuration, processes.

Everything a world starts is ended through handles on exactly those processes, and a world that
leaves one behind fails its test.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import (
    chdir,
    closing,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pysqlite3 import dbapi2 as sqlite3

from dispatcher.cli import app
from dispatcher.host.owner import owner_of
from tests.crash.family import become_subreaper, below
from tests.e2e.lines import expect_in_form
from tests.eventually import PATIENCE, eventually

DISPATCHER = str(Path(sys.executable).with_name("dispatcher"))

#: Sections of a world's configuration: like the defaults, with short times.
SHORT_DELAYS: Mapping[str, Mapping[str, object]] = {
    "node": {"slots": 4},
    "daemon": {"poll": "200ms", "drain_timeout": "2s"},
    "leases": {"kill_grace": "500ms", "exit_grace": "500ms", "leftover_grace": "200ms"},
    "retry": {"backoff_min": "50ms", "backoff_max": "200ms", "cooldown": "100ms"},
    "logs": {"level": "debug", "format": "json"},
}

#: The name of the processes of `tests.postgres`, which no world has started.
SERVER = "postgres"

#: Verbs that run in this process: they use the store and the daemon's socket, and wait for nobody.
#: A process takes a fifth of a second of CPU, most of it for its imports.
IN_PROCESS = frozenset(
    {
        *("cancel", "check-config", "config", "hold", "list", "logs", "pause", "prune", "release"),
        *("reload", "resume", "retry", "show", "status", "submit", "why"),
    }
)

#: Options with which they wait, until a signal ends them.
WAITING = frozenset({"--wait", "--follow", "-f", "--watch", "-w"})

#: Variables that they read when they need them: Python reads others, as its locale, at its start.
READ_LATE = frozenset({"PATH", "RUNTIME_DIRECTORY"})


@dataclass(frozen=True)
class Result:
    """The results of a command that ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def id(self) -> int:
        """The one task id that was printed."""
        return int(self.stdout)


class Daemon:
    """A running `dispatcher run`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.killed = False
        self._log = log
        self._read = 0
        self._events: list[dict[str, Any]] = []

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return the whole lines it has logged; with a name, only those of that event."""
        with self._log.open("rb") as log:  # only what is new: it is looked at again and again
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")
        self._read += len(whole[0]) + len(whole[1])
        self._events += map(json.loads, whole[0].splitlines())
        return [event for event in self._events if name in ("", event["event"])]

    def expect(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait for an event with these fields and return it."""

        def probe() -> dict[str, Any]:
            found = [e for e in self.events(name) if fields.items() <= e.items()]
            assert found, f"no {name} {fields} in:\n{self.output()}"
            return found[0]

        return eventually(probe)

    def output(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def executor(self) -> psutil.Process:
        """Return the executor that this daemon is connected to."""
        return psutil.Process(self.expect("executor.connected")["executor_pid"])

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it and wait; what it started goes on until the world ends."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output()}") from None


class World:
    """A state directory, a configuration file, and the command that uses them."""

    def __init__(self, directory: Path, bytecode: Path) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.config_file = directory / "dispatcher.toml"
        # A socket's path is short, and pytest's are long.
        self.runtime_dir = Path(tempfile.mkdtemp(prefix="dispatcher-"))
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "DISPATCHER_CONFIG": str(self.config_file),
            "PYTHONPYCACHEPREFIX": str(bytecode),
        }
        self._own_env = dict(self.env)
        self.prefix: tuple[str, ...] = ()
        """The words before every command: its user and its directory."""
        self.in_process = IN_PROCESS
        """Verbs that need no process of their own."""
        self._daemons = 0
        self._before = set(below())
        # An orphan in here becomes our child: no process gets away.
        become_subreaper()
        self.configure()

    def configure(self, **sections: Mapping[str, object]) -> None:
        """Write the configuration: one with short delays, with these keys added or replaced."""
        merged = {name: dict(keys) for name, keys in SHORT_DELAYS.items()}
        merged["node"] |= {"state_dir": str(self.state_dir), "runtime_dir": str(self.runtime_dir)}
        for name, keys in sections.items():
            merged.setdefault(name, {}).update(keys)
        lines = []
        for name, keys in merged.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(keys[key])}" for key in keys), ""]
        self.config_file.write_text("\n".join(lines), "utf-8")

    @property
    def database(self) -> str:
        """The file of the store that commands find by the configuration."""
        configured = tomllib.loads(self.config_file.read_text("utf-8"))
        default = f"sqlite://{configured['node']['state_dir']}/tasks.db"
        url: str = configured.get("store", {}).get("url", default)
        return url.removeprefix("sqlite://")

    # The command --------------------------------------------------------------------------

    def cli(
        self,
        *arguments: str | bytes | int | Path,
        exits: int = 0,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Result:
        """Run `dispatcher ARGUMENTS` to its end, and expect this exit code.

        It is the installed command, unless its verb runs `in_process` and nothing is particular.
        """
        words = [a if isinstance(a, str | bytes) else str(a) for a in arguments]
        given = stdin.encode() if isinstance(stdin, str) else stdin
        around = {**self.env, **(env or {})}
        if cwd is None and READ_LATE.issuperset(env or ()) and self._needs_no_process(words):
            result = self._run_in_process([str(word) for word in words], given, around)
        else:
            result = self._run(words, given, around, cwd or self.directory)
        assert exits == result.exit_code, f"{arguments!r} gave {result}"
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def _run(
        self, words: list[str | bytes], stdin: bytes, env: Mapping[str, str], cwd: Path
    ) -> Result:
        command = [*self.prefix, DISPATCHER, *words]
        done = subprocess.run(
            command, input=stdin, capture_output=True, env=env, cwd=cwd, check=False
        )
        stdout, stderr = (
            out.decode(errors="surrogateescape") for out in (done.stdout, done.stderr)
        )
        return Result(done.returncode, stdout, stderr)

    def _needs_no_process(self, words: Sequence[str | bytes]) -> bool:
        return (
            words[:1] != []
            and words[0] in self.in_process
            and WAITING.isdisjoint(words)
            and all(isinstance(word, str) for word in words)
            and not (self.prefix or self.env != self._own_env or self._is_of_another_user())
        )

    def _run_in_process(self, words: list[str], stdin: bytes, env: Mapping[str, str]) -> Result:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        before, there = dict(os.environ), sys.stdin
        os.environ.clear()
        os.environ.update(env)
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
        try:
            with chdir(self.directory), redirect_stdout(out), redirect_stderr(err):
                code = app.run(words)
        finally:
            sys.stdin = there
            os.environ.clear()
            os.environ.update(before)
        out.flush()
        err.flush()
        stdout, stderr = (
            file.buffer.getvalue().decode(errors="surrogateescape") for file in (out, err)
        )
        return Result(code, stdout, stderr)

    def _is_of_another_user(self) -> bool:
        """Whether a command becomes another user, and this process with it."""
        return os.geteuid() == 0 and owner_of(self.state_dir, unknown=None) is not None

    def submit(self, *command: str, **options: str | int) -> int:
        """Submit one command, with options as keywords; return its id."""
        given = [
            text
            for name, value in options.items()
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        return self.cli("submit", *given, "--", *command).id

    def show(self, task_id: int) -> dict[str, Any]:
        shown: dict[str, Any] = self.cli("show", task_id, "--json").json
        return shown

    def until(self, task_id: int, *states: str) -> dict[str, Any]:
        """Wait until a task is in one of these states, and return it as shown.

        The wait reads the store: a command would take a fifth of a second of CPU each time.
        """

        def probe() -> None:
            found = self.stored("SELECT state, reason FROM tasks WHERE id = ?", task_id)
            assert [state for state, _ in found if state in states], f"task {task_id}: {found}"

        def shown() -> dict[str, Any]:
            eventually(probe)
            task = self.show(task_id)
            assert task["state"] in states, task
            return task

        return eventually(shown)  # again, where it went on meanwhile

    def stored(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return rows of the database: for what no command shows, and for what is waited for."""
        try:
            with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as store:
                return store.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:  # somebody keeps it locked, or it is not there
            raise AssertionError(f"{self.database}: {error}") from error

    # The daemon ---------------------------------------------------------------------------

    @contextmanager
    def daemon(
        self,
        *arguments: str,
        started: bool = True,
        alone: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Iterator[Daemon]:
        """Run `dispatcher run` while the block lasts; wait until it logs its start.

        At the end it is stopped by SIGTERM, unless it ended before, and if it was `alone` no
        process may be left. What a killed daemon leaves goes on.
        """
        self._daemons += 1
        log = self.directory / f"daemon-{self._daemons}.log"
        with log.open("wb") as out:
            process = self.process_of(
                [*self.prefix, DISPATCHER, "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**self.env, **(env or {})},
                cwd=self.directory,
            )
        daemon = Daemon(process, log)
        try:
            if started:
                daemon.expect("daemon.started")
            yield daemon
            if process.poll() is None:
                daemon.terminate()
            daemon.wait()
        except BaseException:
            daemon.kill()
            self.sweep()
            raise
        if alone and not daemon.killed:
            self.expect_nobody()

    # Processes ----------------------------------------------------------------------------

    def process_of(self, command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        """Start a command; what is returned is signalled, and waited for, as its process."""
        return subprocess.Popen(command, **how)

    def processes(self) -> list[psutil.Process]:
        """Return every living process that came from this world; bury the dead ones."""
        living = []
        for pid in below():
            with suppress(psutil.NoSuchProcess, ChildProcessError):
                if pid in self._before or (child := psutil.Process(pid)).name() == SERVER:
                    continue
                if child.status() != psutil.STATUS_ZOMBIE:
                    living.append(child)
                elif child.ppid() == os.getpid():
                    os.waitpid(child.pid, os.WNOHANG)
        return living

    def expect_nobody(self) -> None:
        """Wait until no process is left; if one stays, end it and fail."""

        def probe() -> None:
            assert [] == [_name(process) for process in self.processes()]

        try:
            eventually(probe)
        finally:
            self.sweep()

    def sweep(self) -> None:
        """End every process that is left, again until there is none."""

        def probe() -> None:
            left = self.processes()
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            assert not left

        eventually(probe)

    def close(self) -> None:
        self.sweep()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)
        expect_in_form(self.directory)


def _name(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return f"{process.pid} (gone)"
