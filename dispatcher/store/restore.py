"""A backup put in the place of a database, as another store that repeats no id and no fence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pysqlite3 import dbapi2

from dispatcher.errors import DispatcherError, StoreUnavailable, StoreUnusable, cannot_write
from dispatcher.store import migrate
from dispatcher.store.backup import connected, copy, opened, take
from dispatcher.store.drafts import finish, name_finished, reported_draft_of, written
from dispatcher.store.engine import Engine, transaction
from dispatcher.store.lineage import LINEAGE, lineage, succeed
from dispatcher.store.names import beside, refuse_second_name
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.times import WallTime, from_iso, iso

#: The least that fences are advanced by, and ids where nobody knows how far they were: more than
#: any task runs, and any node accepts, between a backup and its restore.
LEAP: Final = 10**6

_2020: Final = WallTime(from_iso("2020-01-01T00:00:00Z"))

_UID = re.compile(r"[0-9a-f]{32}")

_SEQUENCE = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'tasks'"
_RUN_SEQUENCE = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'runs'"
_FENCE = "SELECT max(fence) FROM tasks"
_ADVANCE_FENCES = "UPDATE tasks SET fence = fence + CAST(:leap AS BIGINT)"
_FORGET_SEQUENCE = "DELETE FROM sqlite_sequence WHERE name = :name"
_ADVANCE_SEQUENCE = "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"
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
    stores: frozenset[str] = frozenset()
    """The store that it is, and those in whose place that was restored."""
    whole: bool = False
    """Whether it could be asked, and all of it is there."""


def leap(now: WallTime) -> int:
    """Return by how much to go on where nobody knows how far a store was: by time.

    The milliseconds since 2020, so that two restores of one backup do not repeat each other either,
    whose stores may both be lost: unless more was given than one a millisecond, or the clock was
    back. JSON numbers (2^53) have room for 40,000 such leaps.
    """
    return max(LEAP, now - _2020)


def restore(
    database: Path,
    file: Path,
    *,
    traces: Iterable[str],
    remembered: str | None = None,
    now: WallTime,
) -> Restored:
    """Put a backup in the place of a database, which is kept beside it under a dated name.

    For who holds `lock_database`. It becomes a store of its own, whose ids and fences are beyond
    those of the backup and of the database before. Ids go on from there only if that one knows
    all that were given: it is whole, of the backup's lineage and that of the store that the state
    directory `remembered`, not behind the backup, and it or the backup knows the runs that
    `traces` name (texts of outputs, of a journal). Else they `leap`, as fences always do.

    Raises `StoreUnusable` when the file is no whole store, or a newer dispatcher's,
    `StoreUnavailable` when another process has the database open.
    """
    refuse_second_name(database)
    database = database.resolve()
    try:
        is_file = file.is_file()
    except OSError as error:
        remedy = "name a backup that this user may read"
        raise cannot_write(f"cannot read {file}", error, remedy, DispatcherError) from error
    if not is_file:
        raise DispatcherError(f"{file} is not there, or no file; name a backup")
    if database.exists() and file.samefile(database):
        raise DispatcherError(f"{file} is the database itself; name a backup")
    with reported_draft_of(database) as draft:
        _read(file, draft)
        # Put back, if at all, once the connection is closed, which removes a WAL that it finds.
        with _dated_name(database, now) as dated, _alone_with(database) as before:
            with closing(SqliteEngine(draft, patience=0.0)) as engine:
                identity, next_id = _renew(engine, before, traces, remembered, leap(now))
                with transaction(engine, write=False):
                    ((tasks, running),) = engine.rows(_COUNTS)
            finish(draft, database)
            kept = dated if _set_aside(database, dated) else None
            try:
                name_finished(draft, database)
            except FileExistsError as error:
                raise StoreUnavailable(
                    f"another process has just made {database}; run dispatcher restore again"
                ) from error
    return Restored(identity=identity, tasks=tasks, running=running, next_id=next_id, kept=kept)


def _read(file: Path, draft: Path) -> None:
    """Make a draft of a backup, checked and up to date."""
    try:
        _copy(file, draft)
        with closing(SqliteEngine(draft, patience=0.0)) as engine:
            migrate.adopt(engine, name=str(file))
    except StoreUnusable as error:
        told, _, remedy = str(error).replace(str(draft), str(file)).rpartition("; ")
        if not remedy.startswith("upgrade"):
            remedy = "name another backup"
        raise StoreUnusable(f"{told}; {remedy}") from error


def _copy(file: Path, draft: Path) -> None:
    """Copy a backup and check it; it may be on a disk that nobody can write."""
    wal, _, journal = beside(file)
    alone = not any(part.exists() and part.stat().st_size for part in (wal, journal))
    with opened(file.absolute(), "ro&immutable=1" if alone else "ro") as source:
        copy(source, draft, file)


@contextmanager
def _alone_with(database: Path) -> Iterator[_Seen]:
    """Keep everybody from a database, all of it in its one file; what is damaged stays as it is."""
    if not database.exists():
        yield _Seen()
        return
    with connected(database) as connection:
        try:
            take(connection, database)
            checked = connection.execute("PRAGMA quick_check(1)").fetchall()
            seen = replace(_seen(connection), whole=checked == [("ok",)])
        except dbapi2.Error:
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
        stores=lineage(connection.execute(LINEAGE)),
    )


def _renew(
    engine: SqliteEngine,
    before: _Seen,
    traces: Iterable[str],
    remembered: str | None,
    leaps_by: int,
) -> tuple[str, int]:
    """Make a draft another store; return its identity, and the next task's id."""
    own = _seen(engine.connection)
    worked = own.stores | ({remembered} if remembered is not None else set())
    traced = {uid for text in traces for uid in _UID.findall(text)}
    known = (
        before.whole
        and worked <= before.stores
        and (own.tasks <= before.tasks and own.runs <= before.runs)
        and all(own.knows(uid) or before.knows(uid) for uid in traced)
    )
    by = 0 if known else leaps_by
    with transaction(engine, write=True):
        identity = succeed(engine, worked | before.stores)
        # Beyond those of the database before too, wherever the clock was when that was restored.
        beyond = before.fence + (0 if known else LEAP)
        engine.change(_ADVANCE_FENCES, {"leap": max(leaps_by, beyond)})
        last = max(own.tasks, before.tasks) + by
        _advance(engine, "tasks", last)
        _advance(engine, "runs", max(own.runs, before.runs) + by)
    return identity, last + 1


def _advance(engine: Engine, name: str, seq: int) -> None:
    engine.change(_FORGET_SEQUENCE, {"name": name})
    engine.change(_ADVANCE_SEQUENCE, {"name": name, "seq": seq})


@contextmanager
def _dated_name(database: Path, now: WallTime) -> Iterator[Path]:
    """Give a free name for the present database, to be set aside with its parts.

    After an error they have their own names again, unless something is in their place: then the
    error names where they are.
    """
    dated = re.sub(r"[-:]|\..*", "", iso(now))
    kept = database.with_name(f"{database.name}.before-{dated}Z")
    while any(name.exists() for name in _whole(kept)):
        kept = kept.with_name(f"{kept.name}-again")
    try:
        yield kept
    except BaseException as error:
        if (remedy := _put_back(kept, database)) is None:
            raise
        kind = type(error) if isinstance(error, DispatcherError) else StoreUnavailable
        raise kind(f"{error}; {remedy}") from error


def _set_aside(database: Path, kept: Path) -> bool:
    """Rename the present database and what SQLite would take for its part, if any is there."""
    try:
        with written(database):
            return _rename(database, kept)
    except BaseException:
        with suppress(OSError):
            _rename(kept, database)
        raise


def _put_back(kept: Path, database: Path) -> str | None:
    """Give what was set aside its name; where that cannot be, return where it is."""
    if not any(name.exists() for name in _whole(kept)):
        return None
    if database.exists():
        return f"what was there is kept: {kept}"
    try:
        _rename(kept, database)
    except OSError as error:
        return f"what was there is kept: {kept}; rename it to {database} ({error.strerror})"
    return None


def _rename(database: Path, to: Path) -> bool:
    moves = [
        (old, new) for old, new in zip(_whole(database), _whole(to), strict=True) if old.exists()
    ]
    for old, new in moves:
        old.rename(new)
    return bool(moves)


def _whole(database: Path) -> tuple[Path, ...]:
    """Return a database and its parts; it last: without it, none of them is in use."""
    return (*beside(database), database)
