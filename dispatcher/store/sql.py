"""The store: one SQL text, on whatever engine."""

# ruff: noqa: ARG002, D102 -- the methods, their arguments and their contracts are the Protocol's.

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from dispatcher.calendar import Calendar, Setting
from dispatcher.execution import Claim, OpenRun, Settlement
from dispatcher.model import (
    FINISHED,
    GivenUp,
    Leases,
    NewTask,
    Node,
    Outcome,
    PausedQueue,
    Pruned,
    Run,
    Submitted,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.store import claims, leases, operators, statements, submits
from dispatcher.store.api import Store
from dispatcher.store.clock import Clock
from dispatcher.store.engine import Engine, Values, transaction
from dispatcher.store.rows import (
    Ready,
    given_up_from,
    node_from,
    open_run_from,
    ready_from,
    run_from,
    task_from,
    time_from,
)
from dispatcher.store.values import (
    of_filter,
    of_remains,
    of_settlement,
)
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed

if TYPE_CHECKING:
    from dispatcher.policy import RetryPolicy


class SqlStore:
    """The `Store` on an engine whose schema `migrate` has prepared."""

    def __init__(self, engine: Engine, identity: str, clock: Clock) -> None:
        self._engine = engine
        self._identity = identity
        self._clock = clock
        dialect = engine.dialect
        self._ready = statements.READY + dialect.skip_locked
        self._ready_task = statements.READY_TASK + dialect.skip_locked
        self._abandoned = statements.ABANDONED + dialect.skip_locked
        self._stranded = statements.STRANDED + dialect.skip_locked
        self._alone = not dialect.shared
        self._due = statements.DUE + dialect.skip_locked
        self._overdue = statements.OVERDUE + dialect.skip_locked
        self._tasks = {
            False: statements.TASKS.format(each_label=dialect.each_label),
            True: statements.TASKS_OLDEST_FIRST.format(each_label=dialect.each_label),
        }

    @property
    def identity(self) -> str:
        return self._identity

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        with transaction(self._engine, write=True):
            yield self._clock.begin(self._engine, write=True)

    @contextmanager
    def snapshot(self) -> Iterator[StoreTime]:
        with transaction(self._engine, write=False):
            yield self._clock.begin(self._engine, write=False)

    def watch_clock(self) -> Setting:
        return self._clock.watch(self._engine)

    def calendar(self) -> Calendar:
        return self._clock.calendar(self._engine)

    def close(self) -> None:
        self._engine.close()

    # Submitting ------------------------------------------------------------------------

    def submit(self, task: NewTask, *, now: StoreTime) -> Submitted:
        return submits.submit(self._engine, task, now)

    def stage(self, uid: str, part: int, tasks: Sequence[NewTask], *, now: StoreTime) -> bool:
        return submits.stage(self._engine, uid, part, tasks, now)

    def accept(self, uid: str, *, now: StoreTime) -> bool:
        return submits.accept(self._engine, uid, now)

    def admit(self, uid: str, *, now: StoreTime) -> bool:
        return submits.admit(self._engine, uid, now)

    def submitted(self, uid: str, part: int) -> list[Submitted] | None:
        return submits.submitted(self._engine, uid, part)

    def accepted(self, uid: str) -> bool | None:
        return submits.accepted(self._engine, uid)

    def coming(self) -> int:
        return submits.coming(self._engine)

    def damaged_parts(self) -> list[str]:
        return submits.damaged(self._engine)

    def forget(self, uid: str) -> bool:
        return submits.forget(self._engine, uid)

    def go_on(self, *, now: StoreTime) -> bool:
        return submits.go_on(self._engine, now)

    # The daemon's work -----------------------------------------------------------------

    def move_due(self, *, limit: int, now: StoreTime) -> int:
        due = self._engine.rows(self._due, {"limit": limit, "now": now})
        if due:
            values = [{"id": task_id, "now": now} for (task_id,) in due]
            self._engine.change_each(statements.MAKE_READY, values)
        return len(due)

    def next_due(self) -> StoreTime | None:
        rows = self._engine.rows(statements.NEXT_DUE)
        return time_from(rows[0][0]) if rows else None

    def give_up(self, *, limit: int, now: StoreTime) -> list[GivenUp]:
        overdue = self._engine.rows(self._overdue, {"limit": limit, "now": now})
        given_up = [given_up_from(row, now) for row in overdue]
        values = [{"id": one.task_id, "reason": one.reason, "now": now} for one in given_up]
        self._engine.change_each(statements.GIVE_UP, values)
        return given_up

    def next_failure(self) -> StoreTime | None:
        rows = self._engine.rows(statements.NEXT_FAILURE)
        return time_from(rows[0][0]) if rows else None

    def ready_queues(self, *, after: str, limit: int) -> list[str]:
        rows = self._engine.rows(statements.READY_QUEUES, {"after": after, "limit": limit})
        return [queue for (queue,) in rows]

    def claim(
        self,
        queue: str,
        *,
        limit: int,
        node: str,
        output_dir: str,
        kill_grace_ms: int | None = None,
        until: StoreTime | None = None,
        now: StoreTime,
    ) -> list[Claim]:
        found = self._claimable(self._ready, {"queue": queue, "limit": limit}, kill_grace_ms)
        return [
            claims.claim(
                self._engine,
                ready,
                owner=node,
                output_dir=output_dir,
                takeover_at=ready.takeover_at(until),
                now=now,
            )
            for ready in found
        ]

    def _claimable(
        self, statement: str, values: Values, kill_grace_ms: int | None = None
    ) -> list[Ready]:
        """Return ready tasks; those whose row is damaged are held first, and hide no others."""
        while True:
            rows = self._engine.rows(statement, values)
            found = [ready_from(row, kill_grace_ms) for row in rows]
            damaged = [ready for ready in found if ready.damage is not None]
            if not damaged:
                return found
            for ready in damaged:
                held = {"id": ready.task_id, "reason": ready.damage}
                self._engine.change(statements.HOLD, held)

    def claim_local(
        self,
        queue: str,
        *,
        owner: str,
        output_dir: str,
        task_id: int | None = None,
        lease_ttl_ms: int | None = None,
        now: StoreTime,
    ) -> Claim | None:
        if task_id is None:
            found = self._claimable(self._ready, {"queue": queue, "limit": 1})
        else:
            found = self._claimable(self._ready_task, {"task_id": task_id})
        for ready in found:
            return claims.claim_by_hand(
                self._engine,
                ready,
                owner=owner,
                output_dir=output_dir,
                lease_ttl_ms=lease_ttl_ms,
                now=now,
            )
        return None

    def record_started(
        self, uid: RunUid, *, pid: int, started_at: StoreTime, now: StoreTime
    ) -> bool:
        values = {"uid": uid, "pid": pid, "started_at": started_at, "now": now}
        if not self._engine.change(statements.RECORD_STARTED, values):
            return False
        self._engine.change(statements.BEGIN_LEASE, values)
        return True

    def record_leader_exit(
        self, uid: RunUid, *, exit_code: int | None, signal: int | None, now: StoreTime
    ) -> bool:
        values = {"uid": uid, "exit_code": exit_code, "signal": signal}
        return self._engine.change(statements.RECORD_LEADER_EXIT, values) > 0

    # Workers -----------------------------------------------------------------------------

    def heartbeat(self, beat: Beat, *, now: StoreTime) -> Renewed | Refused:
        return leases.heartbeat(self._engine, beat, now)

    def note(self, note: Note, *, now: StoreTime) -> Accepted | Refused:
        return leases.note(self._engine, note, now)

    def lock_of(self, uid: RunUid) -> tuple[int, str] | None:
        rows = self._engine.rows(statements.LOCK_OF, {"uid": uid})
        return rows[0] if rows else None

    def declare(self, declaration: Declaration, *, now: StoreTime) -> Accepted | Refused:
        return leases.declare(self._engine, declaration, now)

    def renew(self, node: str, *, now: StoreTime) -> int:
        return self._engine.change(statements.RENEW, {"node": node, "now": now})

    def renew_short(self, node: str, *, gap_ms: int, now: StoreTime) -> int:
        values = {"node": node, "gap_ms": gap_ms, "now": now}
        return self._engine.change(statements.RENEW_SHORT, values)

    def expired(self, node: str, *, limit: int, now: StoreTime) -> list[OpenRun]:
        values = {"node": node, "limit": limit, "now": now}
        return [open_run_from(row) for row in self._engine.rows(statements.EXPIRED, values)]

    def next_expiry(self, node: str) -> StoreTime | None:
        ((expiry,),) = self._engine.rows(statements.NEXT_EXPIRY, {"node": node})
        return time_from(expiry)

    def open_run(self, uid: RunUid) -> OpenRun | None:
        rows = self._engine.rows(statements.OPEN_RUN, {"uid": uid})
        return open_run_from(rows[0]) if rows else None

    def open_runs(self, node: str) -> list[OpenRun]:
        return [
            open_run_from(row) for row in self._engine.rows(statements.OPEN_RUNS, {"node": node})
        ]

    def endings(self, node: str) -> list[OpenRun]:
        return [open_run_from(row) for row in self._engine.rows(statements.ENDINGS, {"node": node})]

    def begin_ending(self, uid: RunUid, ending: Outcome, reason: str, *, now: StoreTime) -> bool:
        return operators.begin_ending(self._engine, uid, ending, reason)

    def settle(self, settlement: Settlement, *, now: StoreTime) -> bool:
        values = of_settlement(settlement, now)
        if not self._engine.change(statements.CLOSE, values):
            return False
        if settlement.total_anew:
            self._engine.change(statements.BEGIN_TOTAL_ANEW, values)
        self._engine.change(statements.MOVE_ON, values)
        if (remains := of_remains(settlement)) is not None:
            self._engine.change(statements.REMAINS, remains)
        return True

    # Takeover ------------------------------------------------------------------------------

    def confirm(self, node: str, until: StoreTime | None) -> int:
        return self._engine.change(statements.CONFIRM, {"node": node, "until": until})

    def abandoned(self, *, limit: int, now: StoreTime) -> list[OpenRun]:
        values = {"limit": limit, "now": now}
        return [open_run_from(row) for row in self._engine.rows(self._abandoned, values)]

    def stranded(self, node: str, *, now: StoreTime) -> list[OpenRun]:
        values = {"node": node, "alone": self._alone, "now": now}
        return [open_run_from(row) for row in self._engine.rows(self._stranded, values)]

    def next_takeover(self, node: str, *, now: StoreTime) -> StoreTime | None:
        values = {"node": node, "now": now}
        ((takeover_at,),) = self._engine.rows(statements.NEXT_TAKEOVER, values)
        return time_from(takeover_at)

    def declared(self, node: str) -> list[RunUid]:
        return [
            RunUid(uid) for (uid,) in self._engine.rows(statements.DECLARED_UIDS, {"node": node})
        ]

    def has_unfinished(self, *, but: Iterable[str] = ()) -> bool:
        values = {"but": "".join(f" {queue} " for queue in but)}
        ((unfinished,),) = self._engine.rows(statements.HAS_UNFINISHED, values)
        return bool(unfinished) or submits.is_coming(self._engine)

    def record_node(self, node: Node) -> None:
        self._engine.change(statements.RECORD_NODE, asdict(node))

    # Operators -------------------------------------------------------------------------

    def cancel(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        return operators.cancel(self._engine, task_id, reason, now)

    def retry(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        return operators.retry(self._engine, task_id, now)

    def hold(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        return operators.hold(self._engine, task_id, reason, now)

    def release(self, task_id: int, *, policy: RetryPolicy, now: StoreTime) -> TaskState | None:
        return operators.release(self._engine, task_id, policy, now)

    def pause(self, queue: str, reason: str, *, now: StoreTime) -> bool:
        values = {"queue": queue, "reason": reason, "now": now}
        return self._engine.change(statements.PAUSE, values) > 0

    def resume(self, queue: str) -> bool:
        return self._engine.change(statements.RESUME, {"queue": queue}) > 0

    def paused_queues(self) -> list[PausedQueue]:
        return [PausedQueue(*row) for row in self._engine.rows(statements.PAUSED_QUEUES)]

    def prune(
        self, *, before: StoreTime, limit: int, states: Collection[TaskState] = FINISHED
    ) -> Pruned:
        return operators.prune(self._engine, before, limit, states)

    def known_runs(self, uids: Iterable[RunUid]) -> set[RunUid]:
        return {uid for uid in uids if self._engine.rows(statements.RUN_IS_KNOWN, {"uid": uid})}

    def prunable(self, *, before: StoreTime, states: Collection[TaskState] = FINISHED) -> int:
        return operators.prunable(self._engine, before, states)

    # Reading ---------------------------------------------------------------------------

    def task(self, task_id: int) -> Task | None:
        rows = self._engine.rows(statements.TASK, {"id": task_id})
        return task_from(rows[0]) if rows else None

    def tasks(self, wanted: TaskFilter) -> list[Task]:
        rows = self._engine.rows(self._tasks[wanted.oldest_first], of_filter(wanted))
        return [task_from(row) for row in rows]

    def ids(self) -> range:
        first = self._engine.rows(statements.FIRST_ID)
        last = self._engine.rows(statements.LAST_ID)
        return range(first[0][0], last[0][0] + 1) if first and last else range(0)

    def submitted_from(self, task_id: int) -> tuple[int, StoreTime] | None:
        rows = self._engine.rows(statements.SUBMITTED_FROM, {"id": task_id})
        return (rows[0][0], time_from(rows[0][1]) or StoreTime(0)) if rows else None

    def runs(self, task_id: int) -> list[Run]:
        rows = self._engine.rows(statements.RUNS, {"task_id": task_id})
        return [run_from(row) for row in rows]

    def counts(self) -> Mapping[str, Mapping[TaskState, int]]:
        counts: dict[str, dict[TaskState, int]] = {}
        for queue, state, tasks in self._engine.rows(statements.COUNTS):
            counts.setdefault(queue, {})[TaskState(state)] = tasks
        return counts

    def ready_since(self) -> Mapping[str, StoreTime]:
        rows = self._engine.rows(statements.READY_SINCE)
        return {queue: since for queue, value in rows if (since := time_from(value)) is not None}

    def outcomes(self) -> Mapping[Outcome, int]:
        rows = self._engine.rows(statements.OUTCOMES)
        return {Outcome(outcome): runs for outcome, runs in rows}

    def leases(self) -> Leases:
        (row,) = self._engine.rows(statements.LEASES)
        return Leases(row[0], *map(time_from, row[1:]))

    def nodes(self) -> Sequence[Node]:
        return [node_from(row) for row in self._engine.rows(statements.NODES)]


fits: type[Store] = SqlStore
