"""Changes of tasks' states, on an engine."""

from collections.abc import Collection, Sequence

from dispatcher.model import TaskState
from dispatcher.store.engine import RETURNED, Engine, Values
from dispatcher.store.statements.given import rows_of
from dispatcher.store.statements.moves import (
    BREAK,
    BREAK_HELD,
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
    "BREAK_HELD",
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
    "record",
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
        record(engine, move.event, values, after=move.after)
    return values


def record(engine: Engine, event: str, values: Values, *, after: Collection[TaskState]) -> None:
    """Write the events of tasks that move to one of some states, and note them for hooks."""
    followed = engine.followed
    if followed is None or followed.states.isdisjoint(after):
        engine.later(event, values)
    else:
        followed.note(engine.rows(f"{event} {RETURNED}", values))
