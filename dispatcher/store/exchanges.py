"""Statements of a session that are sent together: one exchange with the server for all of them.

Most of what a statement costs here is its system calls: of four in one exchange each costs a
quarter. psycopg's cursors cost a third more, and its own pipeline twice as much (measured).
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from dispatcher.store.engine import Row
from dispatcher.store.server import Session

#: Statements that a session prepares, each when it is executed for the second time: a command that
#: executes it once does without.
_MOST_PREPARED: Final = 500

#: A statement's text, and the types of its parameters.
_Key = tuple[bytes, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Statement:
    key: _Key
    values: Sequence[Any]
    formats: Sequence[Format] | None
    prepare: bool


class Exchanges:
    """The exchanges of a session. Every method raises `postgresql_errors.ERRORS`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._prepares = not session.is_pooled  # what one session prepared another lacks
        self._transformer = Transformer(session)
        self._names: dict[_Key, bytes | None] = {}
        """Statements by their prepared names; None: executed once, and not prepared yet."""
        self._numbers = count(1)
        # Behind a pooler that does not show itself, what another process prepared has other names.
        self._prefix = os.urandom(4).hex().encode()
        self._waiting: list[_Statement] = []

    def add(self, text: bytes, values: Sequence[object] = (), *, prepare: bool = True) -> None:
        """Let a statement wait for the next `send`; `prepare` it if it is executed again."""
        dumped = self._transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        key = text, tuple(self._transformer.types or ())
        formats, prepare = self._transformer.formats, prepare and self._prepares
        self._waiting.append(_Statement(key, dumped, formats, prepare))

    def drop(self) -> None:
        """Never send what waits."""
        self._waiting.clear()

    def send(self) -> PGresult:
        """Send all that waits, and return the result of the last statement.

        Raises the first error: the server has executed nothing after it.
        """
        pgconn = self._session.pgconn
        pgconn.enter_pipeline_mode()
        try:
            return self._session.wait(self._exchange())
        finally:
            with suppress(psycopg.OperationalError):  # with results that were not awaited
                pgconn.exit_pipeline_mode()

    def rows(self, result: PGresult) -> list[Row]:
        """Return the rows of a result."""
        if result.status != ExecStatus.TUPLES_OK:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _exchange(self) -> PQGen[PGresult]:
        pgconn = self._session.pgconn
        waiting, self._waiting = self._waiting, []
        expected = [one for statement in waiting for one in self._execute(statement)]
        pgconn.pipeline_sync()
        yield from send(pgconn)
        result: PGresult
        error: psycopg.Error | None = None
        try:
            for key, name in expected:
                result = (yield from fetch_many(pgconn))[0]  # one, or more as the session ends
                if result.status == ExecStatus.FATAL_ERROR and error is None:
                    error = error_from_result(result)
                elif error is None and key is not None and self._remembers(key):
                    self._names[key] = name
            yield from fetch_many(pgconn)
        except psycopg.OperationalError as lost:
            raise error or lost from lost
        if error is not None:
            raise error
        return result

    def _remembers(self, key: _Key) -> bool:
        return key in self._names or len(self._names) < _MOST_PREPARED

    def _execute(self, one: _Statement) -> list[tuple[_Key | None, bytes | None]]:
        """Write a statement; return its key and prepared name, once for each result to expect."""
        pgconn, (text, types) = self._session.pgconn, one.key
        if not one.prepare or one.key not in self._names:
            pgconn.send_query_params(text, one.values, param_types=types, param_formats=one.formats)
            return [(one.key if one.prepare else None, None)]
        name = self._names[one.key]
        is_new = name is None
        name = name or b"%s_%d" % (self._prefix, next(self._numbers))
        if is_new:
            pgconn.send_prepare(name, text, param_types=types)
        pgconn.send_query_prepared(name, one.values, param_formats=one.formats)
        return [(one.key, name)] * (1 + is_new)
