"""Every change of a task's state: from which states, and what follows from the new one."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from dispatcher.events import WORKER, EventKind
from dispatcher.lanes import BEHIND
from dispatcher.model import FINISHED, TaskState
from dispatcher.store.statements import events
from dispatcher.store.statements.given import bounded, given

_S = TaskState

#: The `hold_kind` of a task that is held because a parent did not succeed.
OF_PARENT: Final = "parent"


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
    lane = CASE WHEN tasks.concurrency_key IS NULL OR {state} = 'running' THEN tasks.lane
        ELSE '{BEHIND}' END,
    key_due = tasks.concurrency_key IS NOT NULL AND {state} <> 'running',
    finished_at = CASE WHEN {finished} THEN COALESCE(tasks.finished_at, :now) END,
    fails_at = CASE
        WHEN {state} = 'ready' AND ({total_at} IS NULL OR {total_at} > {until})
            THEN COALESCE({until}, {total_at})
        WHEN NOT ({finished} OR {state} = 'running') THEN {total_at} END"""


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
    after: TaskState | Iterable[TaskState],
    *columns: str,
    state: str = "given.state",
    reason: str = "given.reason",
    who: str = ":who",
    sets: str = "",
    only: str = "TRUE",
    total_at: str = "tasks.total_at",
) -> Move:
    """Return a move.

    `columns` are those of `given` besides the id; `sets` are the assignments besides `reason` and
    those of `becomes`. Where there is more than one state `after`, `state` is the expression of a
    row's.
    """
    afters = {after} if isinstance(after, TaskState) else {*after}
    if isinstance(after, TaskState):
        state = f"'{after}'"
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
    return Move(before=frozenset(before), after=frozenset(afters), statement=statement, event=event)


#: The states of tasks that have not finished and do not run.
_AT_REST: Final = frozenset({_S.WAITING, _S.SCHEDULED, _S.READY, _S.HELD})

#: What a task becomes that an operator lets go on: it still waits for parents that have not ended.
_GOES_ON: Final = "CASE WHEN tasks.blockers > 0 THEN 'waiting' ELSE 'ready' END"

#: A ready task's `run_at` is the time since when it is ready.
_NOW_READY = "run_at = :now"

DUE = _move(EventKind.DUE, {_S.SCHEDULED}, _S.READY, reason="'its time has come'")

GIVE_UP = _move(EventKind.GIVE_UP, _AT_REST, _S.FAILED, "reason")

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
    {*TaskState} - {_S.RUNNING, _S.WAITING},
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

CANCEL = _move(EventKind.CANCEL, _AT_REST, _S.CANCELLED, "reason")

# A held task gets the new reason.
HOLD = _move(EventKind.HOLD, _AT_REST, _S.HELD, "reason", sets="hold_kind = NULL")

RETRY = _move(
    EventKind.RETRY,
    {_S.FAILED, _S.CANCELLED, _S.HELD},
    {_S.READY, _S.WAITING},
    state=_GOES_ON,
    total_at=":now + tasks.total_timeout_ms",
    reason="'retried by operator'",
    sets=f"""{_NOW_READY}, attempts_used = 0, deferrals = 0,
    orphans = 0, hold_kind = NULL, retried_at = :now, total_at = :now + tasks.total_timeout_ms""",
)

RELEASE = _move(
    EventKind.RELEASE,
    {_S.HELD},
    {_S.READY, _S.WAITING},
    state=_GOES_ON,
    reason="'released by operator'",
    sets=f"hold_kind = NULL, {_NOW_READY}",
    only="tasks.attempts_used < tasks.max_attempts",
)

# Once its last parent has finished; a later start stays.
UNBLOCK = _move(
    EventKind.PARENTS_DONE,
    {_S.WAITING},
    {_S.READY, _S.SCHEDULED},
    state="CASE WHEN tasks.run_at > :now THEN 'scheduled' ELSE 'ready' END",
    reason="'its parents have finished'",
    sets="run_at = CASE WHEN tasks.run_at > :now THEN tasks.run_at ELSE :now END",
    only="tasks.blockers = 0",
)

_IS_BROKEN = f"hold_kind = CASE WHEN given.state = 'held' THEN '{OF_PARENT}' END"

# Its parent did not succeed.
BREAK = _move(
    EventKind.PARENT_FAILED,
    {_S.WAITING},
    {_S.HELD, _S.CANCELLED},
    *("state", "reason"),
    sets=_IS_BROKEN,
)

# The same of a task that an operator releases, who held it before that.
BREAK_HELD = _move(
    EventKind.RELEASE,
    {_S.HELD},
    {_S.HELD, _S.CANCELLED},
    *("state", "reason"),
    sets=_IS_BROKEN,
)

# Its parent is retried.
REBLOCK = _move(
    EventKind.PARENT_RETRIED,
    {_S.HELD},
    _S.WAITING,
    "reason",
    sets="hold_kind = NULL",
    only=f"""tasks.hold_kind = '{OF_PARENT}' AND NOT EXISTS (SELECT 1 FROM dependencies
        WHERE dependencies.task_id = tasks.id AND dependencies.state = 'broken')""",
)

# An operator lets it go on before its parents have finished.
WAIVE = _move(
    EventKind.RELEASE,
    {_S.WAITING},
    _S.READY,
    reason="'released by operator'",
    sets=f"blockers = 0, {_NOW_READY}",
)

#: All moves but the submit's and the edit's: a test compares them with `model.MOVES`.
MOVES: Final = (
    *(DUE, GIVE_UP, CLAIM, SETTLE, CANCEL, HOLD, RETRY, RELEASE),
    *(UNBLOCK, BREAK, BREAK_HELD, REBLOCK, WAIVE),
)
