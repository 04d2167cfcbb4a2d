"""The schedules of a store: which of their times got a task, and which are still to come."""

from collections.abc import Mapping

from dispatcher.schedules import ScheduleChange, ScheduleState
from dispatcher.selection import Match
from dispatcher.store.engine import Engine
from dispatcher.store.rows import state_from, value_from
from dispatcher.store.statements import schedules as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime, WallTime


def every(engine: Engine) -> list[ScheduleState]:
    """Return all schedules, by name."""
    return [value_from(ScheduleState, row) for row in engine.rows(sql.EVERY)]


def take(engine: Engine, definitions: Mapping[str, str], at: WallTime) -> dict[str, ScheduleState]:
    """Lock schedules that nobody else has locked, and return them; new ones begin at a date."""
    rows = [
        {"name": name, "definition": definition, "settled_at": at}
        for name, definition in definitions.items()
    ]
    taken = _locked(engine, rows)
    if len(taken) < len(rows):
        engine.change(sql.ADD, {"given": rows_of(rows)})
        taken = _locked(engine, rows)
    return taken


def _locked(engine: Engine, rows: list[dict[str, object]]) -> dict[str, ScheduleState]:
    found = engine.rows(sql.TAKE, {"given": rows_of(rows)})
    return {one.name: one for one in (value_from(ScheduleState, row) for row in found)}


def settle(engine: Engine, state: ScheduleState, now: StoreTime) -> None:
    """Write what became of a schedule's times; what is None of the last task stays."""
    values = {
        "name": state.name,
        "definition": state.definition,
        "settled_at": state.settled_at,
        "fired_at": state.fired_at,
        "task_id": state.task_id,
        "note": state.note,
        "now": now,
    }
    engine.change(sql.SETTLE, values)


def unfinished(engine: Engine, origin: str, limit: int) -> list[Match]:
    """Return the last tasks of an origin that have not ended, but for held ones."""
    found = engine.rows(sql.UNFINISHED, {"origin": origin, "limit": limit})
    return [Match(task_id, state_from(state)) for task_id, state in found]


def change(
    engine: Engine, name: str, change: ScheduleChange, reason: str | None, at: WallTime
) -> bool:
    """Do what an operator wants to a schedule; return whether that changed anything."""
    return engine.change(sql.CHANGE[change], {"name": name, "reason": reason, "at": at}) > 0
