"""SQL of events: moves of tasks, and operators' actions. A limit is cast: see `supervisor`.

A claim has no row: it is the row of its run, which nobody changes in what an event shows of it.
Only a local claim has one, as its run does not name the user.
"""

from typing import Final

from dispatcher.events import EventKind, Ledger, StoreEvent
from dispatcher.store.rows import columns
from dispatcher.store.statements.given import given


def of_move(
    kind: EventKind, *columns: str, after: str, reason: str, guard: str, who: str = ":who"
) -> str:
    """Return the INSERT of a move's events, to be executed before it.

    `columns` are those of `given` besides the id; the others are SQL expressions. `guard` is the
    move's own: a task that does not move gets no event.
    """
    return f"""
INSERT INTO events (at, kind, task_id, fence, before, after, who, reason)
SELECT :now, '{kind}', tasks.id, tasks.fence, tasks.state, {after}, {who}, {reason}
FROM tasks, {given("id", *columns)}
WHERE tasks.id = given.id AND {guard}
"""


SUBMITTED = f"""
INSERT INTO events (at, kind, task_id, fence, after, who)
SELECT :now, '{EventKind.SUBMIT}', given.task_id, 0, given.state, :who
FROM {given("task_id", "state")}
"""

ADD = """
INSERT INTO events (at, kind, task_id, subject, fence, before, after, who, reason)
VALUES (:now, :kind, :task_id, :subject, :fence, :before, :after, :who, :reason)
"""

# Those of no task. The index has them in one place.
PRUNE = """
DELETE FROM events WHERE id IN (SELECT id FROM events
    WHERE task_id IS NULL AND at < :before ORDER BY id LIMIT CAST(:limit AS BIGINT))
"""

_EVENT = columns(
    StoreEvent,
    id="events.id",
    queue="tasks.queue",
    fence="events.fence",
    reason="events.reason",
)

_CLAIM = columns(
    StoreEvent,
    id="runs.id",
    at="claimed_at",
    kind=f"'{EventKind.CLAIM}'",
    subject="NULL",
    queue="tasks.queue",
    fence="runs.fence",
    before="'ready'",
    after="'running'",
    who="'node:' || node",
    reason="NULL",
)

_FROM: Final = {
    Ledger.EVENTS: f"SELECT {_EVENT} FROM {{source}} LEFT JOIN tasks ON tasks.id = events.task_id",
    Ledger.RUNS: f"SELECT {_CLAIM} FROM {{source}} JOIN tasks ON tasks.id = runs.task_id",
}

_LIMIT: Final = "LIMIT CAST(:limit AS BIGINT)"


def _each(source: str, rest: str) -> dict[Ledger, str]:
    """Return a statement for each ledger; `{table}` is its name."""
    return {
        ledger: f"{text.replace('{source}', source)} {rest}".replace("{table}", ledger.value)
        for ledger, text in _FROM.items()
    }


#: Newest first.
LAST = _each("{table}", f"WHERE {{table}}.id < :before ORDER BY {{table}}.id DESC {_LIMIT}")

NEW = _each("{table}", f"WHERE {{table}}.id > :after ORDER BY {{table}}.id {_LIMIT}")

#: Those whose ids are in ranges, which hold few, in any order. A CROSS JOIN begins with the ranges.
AMONG = _each(
    f"{given('low_id', 'high_id')} CROSS JOIN {{table}}",
    "WHERE {table}.id BETWEEN low_id AND high_id",
)

OF_TASK = _each("{table}", "WHERE {table}.task_id = :task_id ORDER BY {table}.id")
