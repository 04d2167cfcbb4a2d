"""The interface of a database engine that runs the store's one SQL text.

The text is PostgreSQL's, with ``:name`` parameters and CAST instead of ``::``. Another engine
translates it: the locks of rows (``FOR UPDATE``), and the batch of rows that `statements.given`
writes. A `Dialect` holds other differences.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from dispatcher.complaints import in_words
from dispatcher.errors import StoreRefused

Values = Mapping[str, object]
Row = tuple[Any, ...]

NONE: Values = {}

#: Ends a statement whose effect a server may forget in a crash, unless another statement of its
#: transaction must last: nobody was answered, and the daemon that wrote it soon writes it again.
FORGETTABLE: Final = "-- A crash may forget this.\n"

#: The first integer that no column holds: SQLite would store it as a fraction.
_BEYOND: Final = 2**63


#: A NUL as JSON writes it.
_NUL: Final = "\\u0000"


def refuse_nul(texts: Values) -> None:
    """Raise `StoreRefused` for a text with a NUL, which a server cannot store."""
    for name, text in texts.items():
        if isinstance(text, str) and "\0" in text:
            raise StoreRefused(f"{name}: holds a NUL character, which no database can keep")


class Batch(Struct, frozen=True):
    """Rows for one statement; a key that a row lacks is NULL."""

    rows: Sequence[Values]

    def as_json(self) -> str:
        """Return them as an array of objects. Raises `StoreRefused` for what no row can hold."""
        for row in self.rows:
            for name, value in row.items():
                if value is None or isinstance(value, str | float):
                    continue
                if not isinstance(value, int) or not -_BEYOND <= value < _BEYOND:
                    raise StoreRefused(f"{name}: no column holds {value!r}")
        try:
            text = msgspec.json.encode(self.rows, enc_hook=_plain).decode()
        except UnicodeEncodeError as error:
            raise StoreRefused(f"a text {in_words(error)}") from error
        if _NUL in text:  # it may be of an escape within a text
            for row in self.rows:
                refuse_nul(row)
        return text


def _plain(value: object) -> object:
    """Return a number or text without its own type."""
    return int(value) if isinstance(value, int) else str.__str__(value)


class Dialect(Struct, frozen=True, kw_only=True):
    """The SQL in which databases differ beyond `Engine`'s translation."""

    row_id: str
    """Definition of an integer primary key without reuse."""
    text: str
    """Type of a text that sorts and compares by the bytes of its UTF-8."""
    storage: str = ""
    """Statements that fit the tables of a new schema to how often their rows change."""
    shared: bool
    """Whether nodes on other hosts may use the database."""
    each_pair: str
    """The JSON object `{text}` as a table with the columns `key` and `value`.

    Empty for a text that is none.
    """
    text_in_command: str
    """Whether `:text` is in the arguments of the JSON array `command`, joined by spaces.

    An empty text, as from a shell's unset variable, is in none.
    """
    lock_holder: str = ""
    """Describes who has locked rows of the runs `{given}` by uid, their tasks, or the node `:node`.

    One row at most: who is known to, or else has had a lock on these tables for longest. Empty:
    there are no others.
    """
    may_record: str = ""
    """Whether this role may record a failover; empty: it may."""
    waits: str = ""
    """Lets this transaction wait for others' rows as long as for any answer; empty: no others."""
    advance_ids: str = ""
    """Lets ids of tasks and runs go on beyond those that a replica may have forgotten.

    Empty: the database has no replica.
    """

    def pairs(self, text: str) -> str:
        """Return the table of the pairs of a JSON object, given as an expression."""
        return self.each_pair.replace("{text}", text)


class Followed:
    """The events of a transaction for which hooks may have tasks."""

    def __init__(self, states: Collection[str], kinds: Collection[str]) -> None:
        self.states = frozenset(states)
        """After a move to one of these."""
        self.kinds = frozenset(kinds)
        """Of queues, limits, nodes and workers."""
        self.ids: list[int] = []

    def note(self, written: Iterable[Row]) -> None:
        """Note the events that a statement with `RETURNED` wrote."""
        self.ids += [
            event_id
            for event_id, kind, before, after in written
            if kind in self.kinds or (after in self.states and after != before)
        ]


#: Ends the INSERT of events that are to be noted.
RETURNED: Final = "RETURNING id, kind, before, after"


class Engine(Protocol):
    """One connection to one database, reopened after a failure.

    Statements run between `begin` and `commit` or `rollback`. Any method raises `StoreUnavailable`,
    `StoreUnusable` or `StoreRefused`; after an error every statement raises it again until the
    rollback.
    """

    followed: Followed | None
    """What hooks follow; None: nothing."""

    @property
    def dialect(self) -> Dialect:
        """This database's dialect."""

    @property
    def origin(self) -> tuple[int, int]:
        """The session's number, and the timeline of its server as of the last write transaction.

        A replica that takes over has another timeline. An embedded database has only (0, 0).
        """

    def version(self) -> int | None:
        """Return a number that is another one once others have committed; never wait, never fail.

        None: it is not known. A server's is always 0, as its bell rings instead.
        """

    def begin(self, *, write: bool, schema: bool = False) -> None:
        """Begin a transaction; with `schema`, one that changes tables."""

    def commit(self) -> None:
        """Commit. Raises `CommitUnknown` if the outcome is unknown."""

    def rollback(self) -> None:
        """Roll back. Never raises."""

    def rows(self, statement: str, values: Values = NONE) -> list[Row]:
        """Execute a statement and return its rows."""

    def change(self, statement: str, values: Values = NONE) -> int:
        """Execute a statement and return how many rows it changed."""

    def later(self, statement: str, values: Values = NONE) -> object:
        """Execute a statement by the time of the next other one, or of the commit.

        That one raises its error. What it returns means nothing.
        """

    def close(self) -> None:
        """Close the connection. Idempotent."""


@contextmanager
def transaction(engine: Engine, *, write: bool, schema: bool = False) -> Iterator[None]:
    """Commit at the end, or roll back on any exception."""
    engine.begin(write=write, schema=schema)
    try:
        yield
        engine.commit()
    except BaseException:  # including Ctrl-C before the commit
        engine.rollback()
        raise
