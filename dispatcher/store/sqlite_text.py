"""The store's one SQL text, which is PostgreSQL's, for SQLite."""

import re
from functools import cache
from typing import Final

#: A batch of rows (`statements.given`), and locks of rows, which a single writer does not need.
_BATCH: Final = re.compile(r"json_to_recordset\(CAST\(:(\w+) AS json\)\) AS (\w+)\(([^)]*)\)")
_LOCK: Final = re.compile(r"FOR (?:UPDATE|KEY SHARE)(?: OF \w+)?(?: SKIP LOCKED)?")


@cache
def translated(statement: str) -> str:
    """Return a statement that SQLite executes."""
    return _LOCK.sub("", _BATCH.sub(_batch, statement))


def _batch(found: re.Match[str]) -> str:
    parameter, table, definitions = found.groups()
    columns = [definition.split()[0] for definition in definitions.split(", ")]
    selected = ", ".join(f"value ->> '$.{column}' AS {column}" for column in columns)
    return f"(SELECT {selected} FROM json_each(:{parameter})) AS {table}"  # noqa: S608
