"""What a transaction on a server begins with: in its own session, or in one of a pooler."""

from collections.abc import Sequence
from typing import Final

from dispatcher.errors import StoreUnavailable, StoreUnusable, StoreWithheld
from dispatcher.store import session_text as sql
from dispatcher.store.exchanges import Exchanges
from dispatcher.store.server import DatabaseServer, Session

# Which session it is, as the server knows it.
_SESSION: Final = b", pg_backend_pid(), CAST(extract(epoch FROM now()) * 1000000 AS BIGINT), "

# Another one: another server, another store, or another version of it.
_MARK: Final = b"""CAST(extract(epoch FROM pg_postmaster_start_time()) AS TEXT) || (
    SELECT string_agg(value, ' ' ORDER BY key) FROM meta
    WHERE key IN ('schema_version', 'store_id', 'usable_since'))"""

# Only while it is in that transaction: afterwards it may be another client's.
_END: Final = b"""
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND CAST(extract(epoch FROM xact_start) * 1000000 AS BIGINT) = $2
"""


class Beginning:
    """In the process's own session, which is prepared."""

    def __init__(self, session: Session, exchanges: Exchanges, name: str) -> None:
        self._exchanges = exchanges
        self._name = name
        self._pid = session.info.backend_pid
        self._meta: int | None = None
        """Which table `meta` is; None: not known yet, or there is none."""
        self.end: tuple[bytes, Sequence[object]] = (sql.END_GIVEN_UP, [self._pid])
        """The statement, with values, that ends the session of the transaction from another."""

    def texts(self, *, write: bool) -> Sequence[bytes]:
        """Return what follows the BEGIN, the clock last."""
        return (sql.CLOCK_WRITE if write else sql.CLOCK_READ,)

    def is_new(self, meta: int | None, *_found: object) -> bool:
        """Return whether server or store may be another one than in the transaction before.

        The arguments are what the clock's statement returns after clock and timeline. Raises
        `StoreWithheld` for a store that is gone, `StoreUnavailable` for one that was replaced: the
        next session finds out by which.
        """
        known, self._meta = self._meta, meta
        if meta is None or known not in (None, meta):
            self._refuse_other()
        if known is not None and meta is None:
            raise StoreWithheld(
                f"{self._name} holds no store any more; restore it from a backup, or let"
                " store.schema name another schema"
            )
        if known not in (None, meta):
            raise StoreUnavailable(
                f"{self._name} was restored or made anew while in use; it is examined first"
            )
        return False

    def _refuse_other(self) -> None:
        """Raise `StoreUnusable` in another session than the one that was prepared."""
        self._exchanges.add(b"SELECT pg_backend_pid()", prepare=False)
        ((pid,),) = self._exchanges.rows(self._exchanges.send())
        if pid != self._pid:
            raise StoreUnusable(
                f"{self._name}: a pooler is in between that gives each transaction another"
                " session, but each client the number of one; let store.url name the server"
                " itself, or a pooler in session mode"
            )


class _Pooled(Beginning):
    """Each transaction may be in another session, which nobody has prepared for it."""

    def __init__(self, session: Session, exchanges: Exchanges, server: DatabaseServer) -> None:
        super().__init__(session, exchanges, server.name)
        self._server = server
        self._mark: object = None

    def texts(self, *, write: bool) -> Sequence[bytes]:
        (clock,) = super().texts(write=write)
        is_made = self._meta is not None
        mark = _MARK if is_made else b"NULL"
        return [*self._server.prepares_transaction(is_made=is_made), clock + _SESSION + mark]

    def is_new(self, meta: int | None, *found: object) -> bool:
        super().is_new(meta)
        pid, began, mark = found
        known, self._mark, self.end = self._mark, mark, (_END, [pid, began])
        return mark != known

    def _refuse_other(self) -> None:
        """Do nothing: none was prepared."""


def beginning_of(session: Session, exchanges: Exchanges, server: DatabaseServer) -> Beginning:
    """Return what transactions of a session begin with."""
    if session.is_pooled:
        return _Pooled(session, exchanges, server)
    return Beginning(session, exchanges, server.name)
