"""A backup put in the place of a database, as another store that repeats no id and no fence."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pysqlite3 import dbapi2

from dispatcher.errors import DispatcherError, StoreUnavailable, StoreUnusable
from dispatcher.store import migrate
from dispatcher.store.backup import copy, draft_of, opened, put_in_place
from dispatcher.store.engine import Engine, transaction
from dispatcher.store.names import refuse_second_name
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.store.sqlite_errors import BUSY, code_of
from dispatcher.times import WallTime, iso

#: What fences are advanced by, and ids where nobody knows how far they were: more than any task
#: runs, and any node accepts, between a backup and its restore.
LEAP: Final = 10**6

#: Seconds that others get to close the database.
PATIENCE: Final = 1.0

_UID = re.compile(r"[0-9a-f]{32}")

_SEQUENCE = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'tasks'"
_RUN_SEQUENCE = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'runs'"
_FENCE = "SELECT max(fence) FROM tasks"
_ADVANCE_FENCES = "UPDATE tasks SET fence = fence + CAST(:leap AS BIGINT)"
_FORGET_SEQUENCE = "DELETE FROM sqlite_sequence WHERE name = :name"
_ADVANCE_SEQUENCE = "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"
_NEW_IDENTITY = "UPDATE meta SET value = :identity WHERE key = 'store_id'"
_RUN_IS_KNOWN = "SELECT 1 FROM runs WHERE uid = ?"
_COUNTS = "SELECT count(*), count(CASE WHEN state = 'running' THEN 1 END) FROM tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What stands in the place of the database now."""

    identity: str
    tasks: int
    running: int
    """As the backup has it: the daemon settles them once nothing of them lives."""
    next_id: int
    """The next task's."""
    kept: Path | None
    """Where the database is that was there; None: there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """How far ids and fences were in a database."""

    tasks: int = 0
    runs: int = 0
    fence: int = 0
    knows: Callable[[str], bool] = lambda _: False
    whole: bool = False
    """Whether it could be asked."""


def restore(database: Path, file: Path, *, traces: Iterable[str], now: WallTime) -> Restored:
    """Put a backup in the place of a database, which is kept beside it under a dated name.

    For who holds `lock_database`. It becomes a store of its own, whose ids and fences are beyond
    those of the backup and of the database before; where that cannot be asked, or `traces` (texts
    that name runs: of outputs, of a journal) name one that neither knows, beyond any that are
    likely. Raises `StoreUnusable` when the file is no whole store, or a newer dispatcher's,
    `StoreUnavailable` when another process has the database open.
    """
    refuse_second_name(database)
    database = database.resolve()
    if not file.is_file():
        raise DispatcherError(f"{file} is not there, or no file; name a backup")
    if database.exists() and file.samefile(database):
        raise DispatcherError(f"{file} is the database itself; name a backup")
    with draft_of(database) as draft:
        try:
            _read(file, draft)
            with closing(SqliteEngine(draft, patience=0.0)) as engine:
                migrate.adopt(engine, name=str(file))
        except StoreUnusable as error:
            told, _, remedy = str(error).replace(str(draft), str(file)).rpartition("; ")
            if not remedy.startswith("upgrade"):
                remedy = "name another backup"
            raise StoreUnusable(f"{told}; {remedy}") from error
        with _alone_with(database) as before:
            with closing(SqliteEngine(draft, patience=0.0)) as engine:
                identity, next_id = _renew(engine, before, traces)
                with transaction(engine, write=False):
                    ((tasks, running),) = engine.rows(_COUNTS)
            kept = _set_aside(database, now)
            put_in_place(draft, database)
    return Restored(identity=identity, tasks=tasks, running=running, next_id=next_id, kept=kept)


def _read(file: Path, draft: Path) -> None:
    """Copy a backup and check it; it may be on a disk that nobody can write."""
    wal = Path(f"{file}-wal")
    alone = not wal.exists() or wal.stat().st_size == 0
    with opened(file.absolute(), "ro&immutable=1" if alone else "ro") as source:
        copy(source, draft, file)


@contextmanager
def _alone_with(database: Path) -> Iterator[_Seen]:
    """Keep everybody from a database, all of it in its one file; what is damaged stays as it is."""
    if not database.exists():
        yield _Seen()
        return
    connection = dbapi2.connect(
        f"{database.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=PATIENCE
    )
    with closing(connection):
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = DELETE")  # and the WAL into the file
            connection.execute("BEGIN EXCLUSIVE")
            seen = _seen(connection)
        except dbapi2.Error as error:
            if code_of(error) in BUSY:
                raise StoreUnavailable(
                    f"{database} is open in another process; "
                    f"end that one first: fuser -v {database}"
                ) from error
            seen = _Seen()
        yield seen


def _seen(connection: Any) -> _Seen:
    def number(query: str) -> int:
        return int(connection.execute(query).fetchone()[0] or 0)

    def knows(uid: str) -> bool:
        return connection.execute(_RUN_IS_KNOWN, (uid,)).fetchone() is not None

    return _Seen(
        tasks=number(_SEQUENCE),
        runs=number(_RUN_SEQUENCE),
        fence=number(_FENCE),
        knows=knows,
        whole=True,
    )


def _renew(engine: SqliteEngine, before: _Seen, traces: Iterable[str]) -> tuple[str, int]:
    """Make a draft another store; return its identity, and the next task's id."""
    own, identity = _seen(engine.connection), str(uuid.uuid4())
    traced = {uid for text in traces for uid in _UID.findall(text)}
    unknown = any(not own.knows(uid) and not before.knows(uid) for uid in traced)
    leap = LEAP if unknown or not before.whole else 0
    with transaction(engine, write=True):
        engine.change(_NEW_IDENTITY, {"identity": identity})
        # Beyond those of an earlier restore from the same backup, too.
        engine.change(_ADVANCE_FENCES, {"leap": (before.fence // LEAP + 1) * LEAP})
        last = max(own.tasks, before.tasks) + leap
        _advance(engine, "tasks", last)
        _advance(engine, "runs", max(own.runs, before.runs) + leap)
    return identity, last + 1


def _advance(engine: Engine, name: str, seq: int) -> None:
    engine.change(_FORGET_SEQUENCE, {"name": name})
    engine.change(_ADVANCE_SEQUENCE, {"name": name, "seq": seq})


def _set_aside(database: Path, now: WallTime) -> Path | None:
    """Give the present database, and what SQLite would take for its part, a dated name."""
    there = [tail for tail in ("-wal", "-shm", "") if Path(f"{database}{tail}").exists()]
    dated = re.sub(r"[-:]|\..*", "", iso(now))
    kept = database.with_name(f"{database.name}.before-{dated}Z")
    while any(Path(f"{kept}{tail}").exists() for tail in there):
        kept = kept.with_name(f"{kept.name}-again")
    for tail in there:
        Path(f"{database}{tail}").rename(f"{kept}{tail}")
    return kept if there else None
