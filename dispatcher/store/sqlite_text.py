"""The store's one SQL text, which is PostgreSQL's, for SQLite."""

import re
from functools import cache
from itertools import chain
from typing import Any, Final

from msgspec import Struct

from dispatcher.store.engine import Batch, Dialect, Row, Values

DIALECT: Final = Dialect(
    row_id="INTEGER PRIMARY KEY AUTOINCREMENT",
    text="TEXT",
    shared=False,
    each_pair="json_each(CASE WHEN json_valid({text}) THEN {text} ELSE '{}' END)",
    text_in_command="""instr((SELECT group_concat(value, ' ')
        FROM json_each(CASE WHEN json_valid(command) THEN command ELSE '[]' END)),
        nullif(:text, ''))""",
)

#: A batch of rows (`statements.given`), and locks of rows, which a single writer does not need.
_BATCH: Final = re.compile(r"json_to_recordset\(CAST\(:(\w+) AS json\)\) AS (\w+)\(([^)]*)\)")
_LOCK: Final = re.compile(
    r"FOR (?:NO KEY UPDATE|UPDATE|KEY SHARE|SHARE)(?: OF \w+)?(?: SKIP LOCKED)?"
)

#: An array of what a subquery finds.
_ARRAY: Final = re.compile(r"= ANY \(ARRAY\((.+?)\)\)(?=\n)", re.DOTALL)

#: The batch of an UPDATE or INSERT, its only or its last source, and its columns named in full.
_SOURCE: Final = re.compile(rf"(?:(?<=\n)FROM |, (?=json_to)){_BATCH.pattern}")
_WRITES: Final = ("UPDATE", "INSERT")

#: A parameter that all rows share, and one of either kind.
_SHARED: Final = re.compile(r":(\w+)")
_PARAMETER: Final = re.compile(r"(?:\bgiven\.|:)\w+")


class OfEachRow(Struct, frozen=True):
    """A change of one row of a batch: reading many from JSON takes longer than a change of each."""

    text: str
    columns: tuple[str, ...]
    """Its first parameters, which are the row's."""
    shared: tuple[str, ...]
    """Its other parameters."""

    def change(self, cursor: Any, values: Values) -> int:
        """Make it for the rows; return how many rows it changed."""
        return int(cursor.executemany(self.text, self.parameters(values)).rowcount)

    def rows(self, cursor: Any, values: Values) -> list[Row]:
        """Make it for the rows; return what it returns for each, in their order."""
        found = [cursor.execute(self.text, one).fetchall() for one in self.parameters(values)]
        return list(chain.from_iterable(found))

    def parameters(self, values: Values) -> list[list[object]]:
        """Return those of each row."""
        shared = [values[name] for name in self.shared]
        batch: Any = values["given"]
        return [[*map(row.get, self.columns), *shared] for row in batch.rows]


def of_each_row(statement: str, values: Values) -> OfEachRow | None:
    """Return how to change each row of the batch by itself; None for any other statement."""
    return _of_one_row(statement) if "given" in values else None


def bound(statement: str, values: Values) -> tuple[str, Values]:
    """Return a statement that SQLite executes once, and its parameters.

    Raises `StoreRefused` for a batch that no row can hold.
    """
    batch = values.get("given")
    if isinstance(batch, Batch):
        values = {**values, "given": batch.as_json()}
    return _translated(statement), values


@cache
def _translated(statement: str) -> str:
    return _LOCK.sub("", _BATCH.sub(_from_json, _ARRAY.sub(r"IN (\1)", statement)))


def _from_json(found: re.Match[str]) -> str:
    parameter, table, definitions = found.groups()
    selected = ", ".join(f"value ->> '$.{name}' AS {name}" for name in _names(definitions))
    return f"(SELECT {selected} FROM json_each(:{parameter})) AS {table}"  # noqa: S608


@cache
def _of_one_row(statement: str) -> OfEachRow | None:
    found = _SOURCE.search(statement)
    if found is None or not statement.lstrip().startswith(_WRITES):
        return None
    text, columns = _translated(_SOURCE.sub("", statement)), _names(found[3])
    shared = list(dict.fromkeys(_SHARED.findall(text)))
    names = [*(f"given.{name}" for name in columns), *(f":{name}" for name in shared)]
    places = {name: f"?{place}" for place, name in enumerate(names, 1)}
    text = _PARAMETER.sub(lambda one: places[one[0]], text)
    return OfEachRow(text, tuple(columns), tuple(shared))


def _names(definitions: str) -> list[str]:
    return [definition.split()[0] for definition in definitions.split(", ")]
