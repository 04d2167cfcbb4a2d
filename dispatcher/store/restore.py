"""Restores a backup as a new store, which never repeats an id or a fence of the old ones."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from pysqlite3 import dbapi2

from dispatcher.errors import DispatcherError, StoreUnavailable, StoreUnusable, cannot_write
from dispatcher.store import migrate
from dispatcher.store.backup import connection_to, copy, lock_exclusively, private_connection
from dispatcher.store.drafts import finish, name_finished, reported_draft_of, written
from dispatcher.store.engine import Engine, transaction
from dispatcher.store.migrate import LINEAGE, lineage, record_successor
from dispatcher.store.names import refuse_second_name, side_files
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.times import WallTime, from_iso, iso

#: Least advance of fences, and of ids if the last ones are unknown: more runs of a task, and more
#: tasks of a node, than between a backup and its restore.
LEAP: Final = 10**6

_2020: Final = WallTime(from_iso("2020-01-01T00:00:00Z"))

_UID = re.compile(r"[0-9a-f]{32}")

_SEQUENCE = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'tasks'"
_RUN_SEQUENCE = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'runs'"
_FENCE = "SELECT max(fence) FROM tasks"
ADVANCE_FENCES = "UPDATE tasks SET fence = fence + CAST(:leap AS BIGINT)"
_FORGET_SEQUENCE = "DELETE FROM sqlite_sequence WHERE name = :name"
_ADVANCE_SEQUENCE = "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"
_RUN_IS_KNOWN = "SELECT 1 FROM runs WHERE uid = ?"
COUNTS = "SELECT count(*), count(CASE WHEN state = 'running' THEN 1 END) FROM tasks"


class Restored(Struct, frozen=True, kw_only=True):
    identity: str
    tasks: int
    running: int
    """Tasks that run in the backup: the daemon settles them once no process of them lives."""
    next_id: int
    """The id of the next task."""
    kept: Path | None
    """Where the previous database is; None: there was none."""


class _LastIds(Struct, frozen=True, kw_only=True):
    """The last ids and fences of a database."""

    tasks: int = 0
    runs: int = 0
    fence: int = 0
    knows: Callable[[str], bool] = lambda _: False
    stores: frozenset[str] = frozenset()
    """Its identity, and those of the stores that it replaced."""
    whole: bool = False
    """Whether it could be read, and is not damaged."""


def leap(now: WallTime) -> int:
    """Return the advance of ids and fences if the last ones are unknown: milliseconds since 2020.

    It grows with time, so that two restores of one backup do not repeat each other's ids, unless
    there were more than one a millisecond, or the clock was set back. JSON numbers (2^53) have room
    for 40,000 such leaps.
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
    """Replace a database by a backup; keep the old database next to it under a dated name.

    The caller holds `lock_database`. The result is a store of its own, with ids and fences beyond
    those of the backup and of the old database. Ids continue there only if the old database knows
    all that were ever used: it is not damaged, not older than the backup, has the backup's lineage
    and that of the store that the state directory `remembered`, and it or the backup knows the runs
    named in `traces` (texts of outputs and a journal). Otherwise ids `leap`; fences always do.

    Raises `StoreUnusable` if the file is a damaged or newer store, or none; `StoreUnavailable` if
    another process has the database open.
    """
    refuse_second_name(database)
    database = database.resolve()
    _check_backup(file, database)
    with reported_draft_of(database) as draft:
        _read(file, draft)
        # The old database is put back only after its connection closed, which may remove a WAL.
        with _dated_name(database, now) as dated, _locked(database) as before:
            with closing(SqliteEngine(draft, patience=0.0)) as engine:
                identity, next_id = _make_successor(engine, before, traces, remembered, leap(now))
                with transaction(engine, write=False):
                    ((tasks, running),) = engine.rows(COUNTS)
            finish(draft, database)
            kept = dated if _set_aside(database, dated) else None
            try:
                name_finished(draft, database)
            except FileExistsError as error:
                raise StoreUnavailable(
                    f"another process has just made {database}; run dispatcher restore again"
                ) from error
    return Restored(identity=identity, tasks=tasks, running=running, next_id=next_id, kept=kept)


def _check_backup(file: Path, database: Path) -> None:
    try:
        is_file = file.is_file()
    except OSError as error:
        remedy = "name a backup that this user may read"
        raise cannot_write(f"cannot read {file}", error, remedy, DispatcherError) from error
    if not is_file:
        raise DispatcherError(f"{file} does not exist, or is not a file; name a backup")
    if database.exists() and file.samefile(database):
        raise DispatcherError(f"{file} is the database itself; name a backup")


def _read(file: Path, draft: Path) -> None:
    """Copy a backup to a draft, check it and upgrade it."""
    try:
        _copy(file, draft)
        with closing(SqliteEngine(draft, patience=0.0)) as engine:
            migrate.adopt(engine, name=str(file))
    except StoreUnusable as error:
        problem, _, remedy = str(error).replace(str(draft), str(file)).rpartition("; ")
        if not remedy.startswith("upgrade"):
            remedy = "name another backup"
        raise StoreUnusable(f"{problem}; {remedy}") from error


def _copy(file: Path, draft: Path) -> None:
    """Copy a backup and check the copy; its disk may be read-only."""
    wal, _, journal = side_files(file)
    alone = not any(part.exists() and part.stat().st_size for part in (wal, journal))
    with private_connection(file.absolute(), "ro&immutable=1" if alone else "ro") as source:
        copy(source, draft, file)


@contextmanager
def _locked(database: Path) -> Iterator[_LastIds]:
    """Lock a database exclusively and return its last ids; leave a damaged one unchanged."""
    if not database.exists():
        yield _LastIds()
        return
    with connection_to(database) as connection:
        try:
            lock_exclusively(connection, database)
            checked = connection.execute("PRAGMA quick_check(1)").fetchall()
            seen = replace(_last_ids(connection), whole=checked == [("ok",)])
        except dbapi2.Error:
            seen = _LastIds()
        yield seen


def _last_ids(connection: Any) -> _LastIds:
    def number(query: str) -> int:
        return int(connection.execute(query).fetchone()[0] or 0)

    def knows(uid: str) -> bool:
        return connection.execute(_RUN_IS_KNOWN, (uid,)).fetchone() is not None

    return _LastIds(
        tasks=number(_SEQUENCE),
        runs=number(_RUN_SEQUENCE),
        fence=number(_FENCE),
        knows=knows,
        stores=lineage(connection.execute(LINEAGE)),
    )


def _make_successor(
    engine: SqliteEngine,
    before: _LastIds,
    traces: Iterable[str],
    remembered: str | None,
    leaps_by: int,
) -> tuple[str, int]:
    """Turn a draft into a new store; return its identity, and the next task's id."""
    own = _last_ids(engine.connection)
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
        identity = record_successor(engine, worked | before.stores)
        # Also beyond the old database, at whatever clock that was restored.
        beyond = before.fence + (0 if known else LEAP)
        engine.change(ADVANCE_FENCES, {"leap": max(leaps_by, beyond)})
        last = max(own.tasks, before.tasks) + by
        _advance(engine, "tasks", last)
        _advance(engine, "runs", max(own.runs, before.runs) + by)
    return identity, last + 1


def _advance(engine: Engine, name: str, seq: int) -> None:
    engine.change(_FORGET_SEQUENCE, {"name": name})
    engine.change(_ADVANCE_SEQUENCE, {"name": name, "seq": seq})


@contextmanager
def _dated_name(database: Path, now: WallTime) -> Iterator[Path]:
    """Give a free name to which the present database and its parts can be moved.

    After an error they get their own names back, or, if those are taken, the error names where they
    are.
    """
    dated = re.sub(r"[-:]|\..*", "", iso(now))
    kept = database.with_name(f"{database.name}.before-{dated}Z")
    while any(name.exists() for name in _all_files(kept)):
        kept = kept.with_name(f"{kept.name}-again")
    try:
        yield kept
    except BaseException as error:
        if (remedy := _put_back(kept, database)) is None:
            raise
        kind = type(error) if isinstance(error, DispatcherError) else StoreUnavailable
        raise kind(f"{error}; {remedy}") from error


def _set_aside(database: Path, kept: Path) -> bool:
    """Rename the present database and its parts, if there are any."""
    try:
        with written(database):
            return _rename(database, kept)
    except BaseException:
        with suppress(OSError):
            _rename(kept, database)
        raise


def _put_back(kept: Path, database: Path) -> str | None:
    """Give the old database its name back; return where it is if that is impossible."""
    if not any(name.exists() for name in _all_files(kept)):
        return None
    if database.exists():
        return f"the old database is kept: {kept}"
    try:
        _rename(kept, database)
    except OSError as error:
        return f"the old database is kept: {kept}; rename it to {database} ({error.strerror})"
    return None


def _rename(database: Path, to: Path) -> bool:
    moves = [
        (old, new)
        for old, new in zip(_all_files(database), _all_files(to), strict=True)
        if old.exists()
    ]
    for old, new in moves:
        old.rename(new)
    return bool(moves)


def _all_files(database: Path) -> tuple[Path, ...]:
    """Return the parts of a database, and it last: without it, no part is in use."""
    return (*side_files(database), database)
