"""PostgreSQL's errors as errors of the store, with remedies for the user.

An error's kind is its SQLSTATE, or the first two characters of it. Of what a server refuses before
a session exists, libpq passes on only the text: known English texts count as their SQLSTATE.
"""

import re
from collections.abc import Mapping
from typing import Final

import psycopg

from dispatcher.complaints import in_words
from dispatcher.errors import (
    DispatcherError,
    StoreLocked,
    StoreRefused,
    StoreUnavailable,
    StoreUnusable,
    StoreWithheld,
)

#: Raised for a value that no column can hold, and for all that goes wrong in driver and server.
ERRORS: Final = (psycopg.Error, UnicodeEncodeError)

_UP: Final = "is the server up, and can it be reached from this host?"
_AGAIN: Final = "nothing was written, so try again"
_CREDENTIALS: Final = (
    "let store.url name a role that pg_hba.conf lets in, and let a password file (~/.pgpass or"
    " PGPASSFILE) or a service file hold its password"
)
_POOLED: Final = (
    "a pooler in between seems to change sessions; let store.url name the server itself, or a"
    " pooler in session mode"
)
_RESOURCES: Final = "has the server room on its disk, memory, and free connections?"
_LOG: Final = "its log has more"
_READ_ONLY_SERVER: Final = (
    "it is a standby, or default_transaction_read_only is set for it, the database or the role; let"
    " store.url name the primary, and let that be up"
)

#: PostgreSQL's file of notifications. It raises the state of an index entry that is too large for a
#: full queue, and that of a lost standby for a half full one; its texts may be translated.
_NOTIFYING: Final = "async.c"

#: Stands for the state of a COMMIT that found the queue of notifications full.
_NO_ROOM_TO_NOTIFY: Final = "NOTIFY"

#: What passes: the server does not answer now, or did not let this session finish.
_UNAVAILABLE: Final[Mapping[str, str]] = {
    "": _UP,
    "08": _UP,
    "0A000": _AGAIN,  # only that of `_REPLANNED`
    "25": _AGAIN,
    "25006": _READ_ONLY_SERVER,
    "26": _POOLED,
    "40": _AGAIN,
    "53": _RESOURCES,
    "53300": (
        "raise max_connections, or the CONNECTION LIMIT of the role or the database, or end"
        " sessions that nobody needs: select * from pg_stat_activity"
    ),
    "55": _AGAIN,
    "57": _UP,
    "57014": "try again, or look for what slows it down: select * from pg_stat_activity",
    "58": _LOG,
    "XX": _LOG,
    _NO_ROOM_TO_NOTIFY: f"{_AGAIN}; `dispatcher doctor` names the session that keeps it full",
}

#: What stays as it is until a person changes it.
_UNUSABLE: Final[Mapping[str, str]] = {
    "28": _CREDENTIALS,
    "3D": "create it (createdb), or let store.url name another database",
    "3F": "let store.schema name one that exists",
    "42": "restore it from a backup, or let store.schema name another schema",
    "42501": "grant this role what it lacks, or let store.url name another role",
}

#: Of these, what a person may have taken away, and may give back: the right to come in or to do
#: something, the database, the schema, a table.
_WITHHELD: Final = ("28", "42501", "3D", "3F", "42P01")

#: Classes of errors in one statement's values: value, constraint, size of an index entry.
_REFUSED: Final = ("22", "23", "54")

_LOCKED: Final = "55P03"
_IDLE_TOO_LONG: Final = "25P03"
_READ_ONLY: Final = "25006"

#: A migration by another session changed what a prepared statement returns.
_REPLANNED: Final = "cached plan must not change result type"

#: What the roles of docs/roles.sql may do, to one who may not.
_IN_SCHEMA: Final = re.compile(r"permission denied for (schema|table|sequence) ")

_AT_CONNECT: Final = (
    (re.compile(r'database ".*" does not exist'), "3D000"),
    (re.compile(r"authentication failed|no password supplied|pg_hba\.conf"), "28000"),
    (re.compile(r'role ".*" (does not exist|is not permitted)'), "28000"),
    (re.compile(r"permission denied for database"), "42501"),
    (
        re.compile(r"too many connections for|too many clients|connection slots are reserved"),
        "53300",
    ),
    (re.compile(r"session is read-only"), _READ_ONLY),
)

#: What a server says that shows no timeline: one that lacks the function or its right, and those
#: (Aurora) whose wal_level is too low for it.
_NO_TIMELINE: Final[Mapping[str, str]] = {
    "0A000": "set wal_level = logical (on Aurora: rds.logical_replication = 1), restart the server",
    "42501": "grant this role EXECUTE on both",
    "42883": "let store.url name a server of PostgreSQL itself",
    "55000": "set wal_level = logical (on Aurora: rds.logical_replication = 1), restart the server",
}


def membership(schema: str, role: str) -> str:
    """Return the remedy for a role that may not do with a store what it tries."""
    return (
        f"let its owner grant what is needed, GRANT {schema}_submit, {schema}_operate or"
        f" {schema}_run TO {role} (docs/roles.sql makes them), or let store.url name another role"
    )


def translated(
    error: Exception, name: str, patience: float, *, granting: str = ""
) -> DispatcherError:
    """Return the store's error for one of `ERRORS`; raise it again if the program is at fault.

    `granting` is the remedy for a role that lacks a right in the store's schema.
    """
    if isinstance(error, UnicodeEncodeError):
        return StoreRefused(f"a text {in_words(error)}")
    if isinstance(error, psycopg.DataError) and not error.sqlstate:
        return StoreRefused("a text contains NUL, which PostgreSQL cannot store")
    state, problem = _state_of(error), _message(error)
    if state.startswith(_REFUSED):
        return StoreRefused(problem)
    if (remedy := _of_kind(state, _UNUSABLE)) is not None:
        remedy = (granting if _IN_SCHEMA.match(problem) else "") or remedy
        kind = StoreWithheld if state.startswith(_WITHHELD) else StoreUnusable
        return kind(f"{name}: {problem}; {remedy}")
    if state == _LOCKED:
        problem = f"another session has held a lock for more than {patience:g} s"
        return StoreLocked(f"{name}: {problem}; {_AGAIN}")
    if (remedy := _of_kind(state, _UNAVAILABLE)) is not None:
        return StoreUnavailable(f"{name}: {problem}; {remedy}")
    raise error


def ends_session(error: Exception) -> bool:
    """Return whether the session is over, or of no use any more."""
    if isinstance(error, UnicodeEncodeError | psycopg.DataError):
        return False
    state = _state_of(error)
    if state.startswith("57"):
        return state != "57014"
    return state in ("", _IDLE_TOO_LONG, _READ_ONLY) or state.startswith(("08", "0A", "26"))


def of_begin(error: psycopg.Error, name: str, *, has_begun: bool) -> DispatcherError | None:
    """Return the error of a server that refuses transactions that write, or shows no timeline.

    None if it is another one.
    """
    problem, state = _message(error), str(error.sqlstate)
    if not has_begun:  # a standby
        is_standby = state == "0A000"
        return StoreUnavailable(f"{name}: {problem}; {_READ_ONLY_SERVER}") if is_standby else None
    if _IN_SCHEMA.match(problem) or (remedy := _NO_TIMELINE.get(state)) is None:
        return None
    kind = StoreWithheld if state.startswith(_WITHHELD) else StoreUnusable
    return kind(
        f"{name}: {problem}; without the server's timeline (pg_current_wal_lsn(),"
        f" pg_walfile_name(pg_lsn)) no failover would be noticed: {remedy}"
    )


def of_timeline(name: str, timeline: int, newest: int) -> DispatcherError:
    """Return the error of a server that is on an older timeline than this process has seen."""
    return StoreUnavailable(
        f"{name} is on timeline {timeline}, and this process has worked on {newest}: a replica took"
        " over from this server, which may still run; let store.url lead to the primary, or restart"
        " this process if this is meant"
    )


def shows_no_standby(warning: psycopg.errors.Diagnostic) -> bool:
    """Return whether a COMMIT with this warning is done here, and perhaps nowhere else.

    Somebody ended its wait for a synchronous standby.
    """
    return warning.sqlstate == "01000" and warning.source_file != _NOTIFYING


def proves_no_commit(error: psycopg.Error) -> bool:
    """Return whether a failed COMMIT is known to have written nothing.

    An ERROR aborts the transaction. After a FATAL the session is over, and the commit may have
    come before; but a session is idle only before its COMMIT arrives.
    """
    return error.sqlstate == _IDLE_TOO_LONG or error.diag.severity_nonlocalized == "ERROR"


def _of_kind(state: str, kinds: Mapping[str, str]) -> str | None:
    return kinds.get(state, kinds.get(state[:2]))


def _state_of(error: Exception) -> str:
    """Return the SQLSTATE; "" for a lost connection; "?" for a mistake of the program."""
    state = getattr(error, "sqlstate", None)
    if state == "54000" and _source_file(error) == _NOTIFYING:
        return _NO_ROOM_TO_NOTIFY
    if state is not None:
        return "?" if state.startswith("0A") and _REPLANNED not in str(error) else str(state)
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return "?"
    return next((known for text, known in _AT_CONNECT if text.search(str(error))), "")


def _source_file(error: Exception) -> str | None:
    return error.diag.source_file if isinstance(error, psycopg.Error) else None


def _message(error: Exception) -> str:
    """Return the message on one line, without details: they would show values of the row."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((primary or str(error)).split())
