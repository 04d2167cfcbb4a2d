"""Which statements lock tasks, and how: see docs/adr/0027-one-order-of-locks.md."""

import pkgutil
import re
from importlib import import_module

from dispatcher.store import statements

#: Statements that lock a task as one to be deleted, or none, although they read tasks.
DELETE_OR_NONE = {"OLD", "UNUSED_ENVIRONMENTS", "REMOVE_UNUSED_ENVIRONMENTS"}


def test_no_statement_locks_a_task_so_that_its_run_cannot_change() -> None:
    texts = {
        name: text
        for found in pkgutil.iter_modules(statements.__path__)
        for name, text in vars(import_module(f"{statements.__name__}.{found.name}")).items()
        if isinstance(text, str)
    }
    strong = re.compile(r"FOR UPDATE(?! OF (?:runs|bulk_submits)\b)")

    locking = {name for name, text in texts.items() if strong.search(text)}

    assert DELETE_OR_NONE < locking
    assert DELETE_OR_NONE == {name for name in locking if re.search(r"\btasks\b", texts[name])}
