"""Changes of tasks' states, on an engine."""

from collections.abc import Sequence

from dispatcher.store.engine import Engine, Values
from dispatcher.store.statements.given import rows_of
from dispatcher.store.statements.moves import (
    BREAK,
    CANCEL,
    CLAIM,
    DUE,
    GIVE_UP,
    HOLD,
    REBLOCK,
    RELEASE,
    RETRY,
    SETTLE,
    UNBLOCK,
    WAIVE,
    Move,
)
from dispatcher.times import StoreTime

__all__ = [
    "BREAK",
    "CANCEL",
    "CLAIM",
    "DUE",
    "GIVE_UP",
    "HOLD",
    "REBLOCK",
    "RELEASE",
    "RETRY",
    "SETTLE",
    "UNBLOCK",
    "WAIVE",
    "Move",
    "make",
    "make_later",
]


def make_later(
    engine: Engine, move: Move, tasks: Sequence[Values], *, who: str, now: StoreTime
) -> None:
    """Move tasks as `make`, by the time of the next statement."""
    if tasks:
        engine.later(move.statement, _recorded(engine, move, tasks, who, now))


def make(engine: Engine, move: Move, tasks: Sequence[Values], *, who: str, now: StoreTime) -> int:
    """Move tasks, given by id with what the move needs; return how many moved.

    Each that moves gets an event, which names `who` moved it (`events.Actor`).
    """
    if not tasks:
        return 0
    return engine.change(move.statement, _recorded(engine, move, tasks, who, now))


def _recorded(
    engine: Engine, move: Move, tasks: Sequence[Values], who: str, now: StoreTime
) -> Values:
    """Write the events of a move that follows; return the parameters that both take."""
    values = {"given": rows_of(tasks), "now": now, "who": who}
    if move.event is not None:
        engine.later(move.event, values)
    return values
