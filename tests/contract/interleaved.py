"""Several sessions on one server, stepped in a fixed order: what waits does so in a thread."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from tests.eventually import eventually
from tests.postgres import Postgres

T = TypeVar("T")

#: A lock that no session of the store takes.
GATE = 4711

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


class Sessions:
    """Stores with a session each, and a thread for each that waits."""

    def __init__(self, server: Postgres, state_dir: Path, stack: ExitStack) -> None:
        self._server = server
        self._state_dir = state_dir
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(8))

    def open(self) -> SqlStore:
        store = open_store(self._server.url(), state_dir=self._state_dir, patience=20)
        assert isinstance(store, SqlStore)
        self._stack.callback(store.close)
        return store

    def start(self, do: Callable[[], T]) -> "Future[T]":
        """Call it in a thread."""
        return self._pool.submit(do)

    def waiting(self, do: Callable[[], T]) -> "Future[T]":
        """Call it in a thread, and return once that waits for a lock."""
        already = self._waiting()
        future = self._pool.submit(do)

        def waits() -> None:
            assert not future.done(), future.result()
            assert self._waiting() > already

        eventually(waits)
        return future

    def _waiting(self) -> int:
        ((many,),) = self._server.sql(WAITING)
        return int(many)

    def together(self, *each: Callable[[], T]) -> list[T]:
        """Call all at once, and return what they return."""
        return [future.result() for future in [self._pool.submit(do) for do in each]]

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Keep the statements that `stopped` changed waiting."""
        connection = self._server.connect()
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", [GATE])
            yield
        finally:
            connection.close()


def stopped(store: SqlStore, statement: str, patch: pytest.MonkeyPatch) -> None:
    """Let a statement wait at the gate, after it has taken its snapshot and before its locks."""
    sound = store.engine.rows
    gate = f"\nAND (SELECT count(pg_advisory_xact_lock({GATE}))) >= 0\n"
    stopping, places = re.subn(r"\n(?=ORDER BY|LIMIT)", gate, statement, count=1)
    assert places

    def rows(text: str, *args: Any) -> Any:
        return sound(stopping if text == statement else text, *args)

    patch.setattr(store.engine, "rows", rows)
