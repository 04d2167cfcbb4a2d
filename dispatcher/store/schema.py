"""The names of schemas: on a server the store is one of the database's schemas."""

import re
from collections.abc import Callable
from typing import Final

#: Names that need no care in any tool; PostgreSQL keeps `pg_` for itself.
_NAME: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")

#: Ends the complaint about any other.
NO_NAME: Final = (
    "is not a name for a schema; begin with a small letter or _ (not pg_), then use up to 62 small"
    " letters, digits and _"
)

#: The name of a shared store's schema, unless another is given.
USUAL_NAME: Final = "dispatcher"

#: Called with what messages call a shared store that was made, and the schemas with other stores.
Made = Callable[[str, tuple[str, ...]], object]


def ignored(_name: str, _others: tuple[str, ...]) -> None: ...


def is_shared(url: str) -> bool:
    """Return whether a URL names a server, whose store nodes on other hosts may use."""
    return url.startswith(("postgresql:", "postgres:"))


def is_name(name: str) -> bool:
    """Return whether a schema on a server may have this name."""
    return _NAME.fullmatch(name) is not None
