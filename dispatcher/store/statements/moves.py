"""Every change of a task's state: from which states, and what follows from the new one."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from dispatcher.events import WORKER, EventKind
from dispatcher.model import FINISHED, TaskState
from dispatcher.store.statements import events
from dispatcher.store.statements.given import bounded, given

_S = TaskState


def becomes(
    state: str, *, total_at: str = "tasks.total_at", queue_ms: str = "tasks.queue_timeout_ms"
) -> str:
    """Return the assignments of a state, an SQL expression, and of the times that follow from it.

    A task fails at the end of its total time-out, unless it runs or is finished; a ready one also
    at the end of its queue time-out, whichever comes first.
    """
    finished = " OR ".join(f"{state} = '{one}'" for one in sorted(FINISHED))
    until = f":now + {bounded(queue_ms)}"
    return f"""state = {state},
    finished_at = CASE WHEN {finished} THEN COALESCE(tasks.finished_at, :now) END,
    fails_at = CASE
        WHEN {state} = 'ready' AND ({total_at} IS NULL OR {total_at} > {until})
            THEN COALESCE({until}, {total_at})
        WHEN {state} = 'ready' OR {state} = 'scheduled' OR {state} = 'held' THEN {total_at} END"""


def among(states: Iterable[TaskState]) -> str:
    """Return the condition that a task is in one of these states.

    A state written by hand counts as `held`, as which it reads.
    """
    states = {*states}
    if _S.HELD not in states:
        return "(" + " OR ".join(f"tasks.state = '{state}'" for state in sorted(states)) + ")"
    others = sorted({*TaskState} - states)
    return " AND ".join(f"tasks.state <> '{state}'" for state in others)


class Move(Struct, frozen=True, kw_only=True):
    """A change of state of the tasks whose ids are in `given`."""

    before: frozenset[TaskState]
    after: frozenset[TaskState]
    statement: str
    event: str | None
    """Records it, before it happens; None: another row does."""


def _move(
    kind: EventKind,
    before: Iterable[TaskState],
    after: TaskState | None,
    *columns: str,
    reason: str = "given.reason",
    who: str = ":who",
    sets: str = "",
    only: str = "TRUE",
    total_at: str = "tasks.total_at",
) -> Move:
    """Return a move.

    `columns` are those of `given` besides the id; `sets` are the assignments besides `reason` and
    those of `becomes`. Where there is more than one state `after` (None), each row names its own.
    """
    state = "given.state" if after is None else f"'{after}'"
    guard = f"{among(before)} AND {only}"
    statement = f"""
UPDATE tasks SET {becomes(state, total_at=total_at)},
    {", ".join([f"reason = {reason}", *filter(None, [sets])])}
FROM {given("id", *columns)}
WHERE tasks.id = given.id AND {guard}
"""
    event = None
    if kind is not EventKind.CLAIM:  # the run that it opens is its event
        event = events.of_move(kind, *columns, after=state, reason=reason, guard=guard, who=who)
    left = frozenset(TaskState) - {*before} if after is None else frozenset({after})
    return Move(before=frozenset(before), after=left, statement=statement, event=event)


_WAITING: Final = frozenset({_S.SCHEDULED, _S.READY, _S.HELD})

#: A ready task's `run_at` is the time since when it is ready.
_NOW_READY = "run_at = :now"

DUE = _move(EventKind.DUE, {_S.SCHEDULED}, _S.READY, reason="'its time has come'")

GIVE_UP = _move(EventKind.GIVE_UP, _WAITING, _S.FAILED, "reason")

CLAIM = _move(
    EventKind.CLAIM,
    {_S.READY},
    _S.RUNNING,
    *("fence", "uid", "lease_ttl_ms"),
    reason="'claimed'",
    sets="fence = given.fence, run_uid = given.uid, lease_ttl_ms = given.lease_ttl_ms",
)

_SETTLED_TOTAL_AT = """CASE WHEN given.total_anew THEN :now + tasks.total_timeout_ms
        ELSE tasks.total_at END"""

# Where a run leads. Its total time-out begins anew after an operator's retry.
SETTLE = _move(
    EventKind.SETTLE,
    {_S.RUNNING},
    None,
    *("state", "uid", "reason", "run_at", "attempts_used", "deferrals", "orphans", "total_anew"),
    "by_worker",
    who=f"CASE WHEN given.by_worker THEN '{WORKER}' ELSE :who END",
    total_at=_SETTLED_TOTAL_AT,
    sets=f"""run_uid = NULL, attempts_used = given.attempts_used,
    deferrals = given.deferrals, orphans = given.orphans,
    run_at = CASE WHEN given.state = 'ready' THEN :now
        ELSE COALESCE(given.run_at, tasks.run_at) END,
    retried_at = CASE WHEN given.total_anew THEN :now ELSE tasks.retried_at END,
    total_at = {_SETTLED_TOTAL_AT}""",
    only="tasks.run_uid = given.uid",
)

CANCEL = _move(EventKind.CANCEL, _WAITING, _S.CANCELLED, "reason")

# A held task gets the new reason.
HOLD = _move(EventKind.HOLD, _WAITING, _S.HELD, "reason")

RETRY = _move(
    EventKind.RETRY,
    {_S.FAILED, _S.CANCELLED, _S.HELD},
    _S.READY,
    total_at=":now + tasks.total_timeout_ms",
    reason="'retried by operator'",
    sets=f"""{_NOW_READY}, attempts_used = 0, deferrals = 0,
    orphans = 0, retried_at = :now, total_at = :now + tasks.total_timeout_ms""",
)

RELEASE = _move(
    EventKind.RELEASE,
    {_S.HELD},
    _S.READY,
    reason="'released by operator'",
    sets=_NOW_READY,
    only="tasks.attempts_used < tasks.max_attempts",
)

#: All moves but the submit's and the edit's: a test compares them with `model.MOVES`.
MOVES: Final = (DUE, GIVE_UP, CLAIM, SETTLE, CANCEL, HOLD, RETRY, RELEASE)
