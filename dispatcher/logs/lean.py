"""structlog without rich, which it imports for tracebacks that the log does not draw."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_rich() -> Iterator[None]:
    """Let rich look as if it were not installed, unless it is imported: it takes 40 ms of a start.

    A None in `sys.modules` makes an import fail: 5.3.1 of Python's reference.
    """
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["rich"]
