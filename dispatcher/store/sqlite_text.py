"""The store's one SQL text, which is PostgreSQL's, for SQLite."""

import re
from functools import cache
from typing import Final

from dispatcher.store.engine import Batch, Dialect, Values

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


def bound(statement: str, values: Values) -> tuple[str, Values]:
    """Return a statement that SQLite executes, and its parameters.

    A single row is bound as it is: reading it from JSON takes longer than a change by its key.
    Raises `StoreRefused` for a batch that no row can hold.
    """
    batch = values.get("given")
    if not isinstance(batch, Batch):
        return _translated(statement), values
    if len(batch.rows) == 1:
        text, columns = _of_one_row(statement)
        if columns:
            return text, {**columns, **values, **batch.rows[0]}
    return _translated(statement), {**values, "given": batch.as_json()}


@cache
def _translated(statement: str) -> str:
    return _LOCK.sub("", _BATCH.sub(_from_json, _ARRAY.sub(r"IN (\1)", statement)))


def _from_json(found: re.Match[str]) -> str:
    parameter, table, definitions = found.groups()
    selected = ", ".join(f"value ->> '$.{name}' AS {name}" for name in _names(definitions))
    return f"(SELECT {selected} FROM json_each(:{parameter})) AS {table}"  # noqa: S608


@cache
def _of_one_row(statement: str) -> tuple[str, dict[str, None]]:
    """Return the statement with a parameter for each column, all NULL; none if that cannot be."""
    found = _SOURCE.search(statement)
    if found is None or not statement.lstrip().startswith(_WRITES):
        return statement, {}
    text = _SOURCE.sub("", statement)
    return re.sub(r"\bgiven\.", ":", text), dict.fromkeys(_names(found[3]))


def _names(definitions: str) -> list[str]:
    return [definition.split()[0] for definition in definitions.split(", ")]
