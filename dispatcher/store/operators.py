"""The store for operators: a verb acts at once, or is kept as a running task's intent.

A verb that would change nothing, as the run has succeeded, writes neither intent nor ending.
"""

from collections.abc import Collection
from typing import NamedTuple

from dispatcher.dependency import DependencyState
from dispatcher.events import EventKind
from dispatcher.execution import OpenRun, Rows
from dispatcher.model import (
    FINISHED,
    Intent,
    Outcome,
    Task,
    TaskState,
)
from dispatcher.selection import CHANGES
from dispatcher.store import moves
from dispatcher.store.engine import refuse_nul
from dispatcher.store.local_claims import SqlLocalClaims
from dispatcher.store.parameters import edit_parameters, edited_columns
from dispatcher.store.rows import state_from
from dispatcher.store.statements import locks as locks_sql
from dispatcher.store.statements import nodes as nodes_sql
from dispatcher.store.statements import operators as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.store.statements.moves import OF_PARENT
from dispatcher.store.statements.operators import EDITABLE
from dispatcher.times import StoreTime


class _Found(NamedTuple):
    """A task for an operator's verb."""

    state: TaskState | None
    """None: it does not exist."""
    run: OpenRun | None
    has_parents: bool = False
    is_of_parent: bool = False
    """Whether it is held because a parent did not succeed."""


class SqlOperator(SqlLocalClaims):
    """`OperatorStore` on an engine."""

    def cancel(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        refuse_nul({"reason": reason})
        found = self._find(task_id)
        if found.run is not None:
            self._end(found.run, Intent.CANCEL, Outcome.CANCELLED, reason, now)
        elif found.state not in FINISHED:
            self._move(moves.CANCEL, task_id, now, reason=reason)
        return found.state

    def hold(
        self, task_id: int, reason: str, *, replace_reason: bool = True, now: StoreTime
    ) -> TaskState | None:
        refuse_nul({"reason": reason})
        found = self._find(task_id)
        # One that is held for its parent would go on once that is retried.
        replace_reason |= found.is_of_parent
        if found.run is not None:
            from dispatcher.store import outlooks  # noqa: PLC0415 - for runs alone

            if not outlooks.can_be_held(found.run, now):
                return found.state
            self._end(found.run, Intent.HOLD, Outcome.HELD, reason, now)
        elif found.state not in FINISHED and (found.state is not TaskState.HELD or replace_reason):
            self._move(moves.HOLD, task_id, now, reason=reason)
        return found.state

    def retry(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        state, run, *_ = found = self._find(task_id)
        if state in CHANGES[Intent.RETRY]:
            from dispatcher.store import dependencies  # noqa: PLC0415 - for retries alone

            if found.has_parents:
                dependencies.waive(self.engine, task_id, DependencyState.BROKEN)
            self._move(moves.RETRY, task_id, now)
            self._ask_no_more(task_id)
            dependencies.reopen(self.engine, task_id, who=self._who, now=now)
        elif run is not None and run.is_ending:
            from dispatcher.store import outlooks  # noqa: PLC0415 - for runs alone

            if outlooks.outcome_of(run) is not Outcome.SUCCEEDED:
                self._intend(run, Intent.RETRY, "retried by operator", now)
        return state

    def release(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        state, run, *_ = found = self._find(task_id)
        if found.has_parents and state in (TaskState.HELD, TaskState.WAITING):
            self._release_child(task_id, found, now)
        elif state is TaskState.HELD:
            self._move(moves.RELEASE, task_id, now)
            self._ask_no_more(task_id)
        elif run is not None and run.is_ending:
            from dispatcher.store import outlooks  # noqa: PLC0415 - for runs alone

            if outlooks.can_be_released(run, now):
                self._intend(run, Intent.RELEASE, "released by operator", now)
        return state

    def _release_child(self, task_id: int, found: _Found, now: StoreTime) -> None:
        """Let a task with parents go on by one step: from their end, their failure, or a hold."""
        from dispatcher.store import dependencies  # noqa: PLC0415 - few tasks have parents

        if found.state is TaskState.WAITING:
            dependencies.waive(self.engine, task_id, DependencyState.OPEN)
            self._move(moves.WAIVE, task_id, now)
            return
        broken = dependencies.first_broken(self.engine, task_id)
        if broken is not None and not found.is_of_parent:
            self._announce(
                moves.make(self.engine, moves.BREAK_HELD, [broken], who=self._who, now=now) > 0
            )
            return
        dependencies.waive(self.engine, task_id, DependencyState.BROKEN)
        self._move(moves.RELEASE, task_id, now)
        self._ask_no_more(task_id)

    def answer(self, task_id: int, text: str, *, now: StoreTime) -> None:
        from dispatcher.store import handovers  # noqa: PLC0415 - for answers alone

        refuse_nul({"answer": text})
        handovers.answer(self.engine, task_id, text, by=self._who, now=now)
        self._record(EventKind.ANSWER, now=now, task_id=task_id)

    def _ask_no_more(self, task_id: int) -> None:
        """Drop the question of a task that goes on without an answer."""
        from dispatcher.store import handovers  # noqa: PLC0415 - for answers alone

        handovers.ask_no_more(self.engine, task_id)

    def lock_for_retry(self, task_ids: Collection[int]) -> None:
        children: list[int] = []
        if self.engine.dialect.shared:
            from dispatcher.store import dependencies  # noqa: PLC0415 - for retries alone

            children = dependencies.waiting_again(self.engine, task_ids)
        self.lock_rows(Rows(tasks=[*task_ids, *children]))

    def edit(self, before: Task, after: Task, *, now: StoreTime) -> bool:
        changed = edited_columns(before, after)
        values = {**edit_parameters(before, after, now), **changed}
        done = self._announce(self.engine.change(sql.edit(tuple(changed)), values) > 0)
        if done:
            if after.queue != before.queue and before.concurrency_key:
                from dispatcher.store import keys  # noqa: PLC0415 - few tasks have keys

                keys.leave(self.engine, before.queue, before.concurrency_key)
            self._record(
                EventKind.EDIT,
                now=now,
                task_id=before.id,
                fence=before.fence,
                before=before.state.value,
                after=after.state.value,
                reason=", ".join(name for name in sorted(changed) if name in EDITABLE),
            )
        return done

    def lock_for_edit(self, task_ids: Collection[int], queue: str | None) -> None:
        self.lock_rows(Rows(tasks=task_ids))
        if queue is not None and self.engine.dialect.shared:
            values = {"given": rows_of([{"id": one} for one in task_ids]), "queue": queue}
            self.engine.rows(locks_sql.KEYS_OF, values)

    def mend_counts(self) -> bool:
        from dispatcher.store import counting  # noqa: PLC0415 - for `migrate`

        return counting.mend_counts(self.engine)

    def pause(self, queue: str, reason: str, *, now: StoreTime) -> bool:
        values = {"queue": queue, "reason": reason, "now": now}
        refuse_nul(values)
        if done := self.engine.change(sql.PAUSE, values) > 0:
            self._record(EventKind.PAUSE, now=now, subject=queue, reason=reason)
        return done

    def resume(self, queue: str, *, now: StoreTime) -> bool:
        refuse_nul({"queue": queue})
        done = self._announce(self.engine.change(sql.RESUME, {"queue": queue}) > 0)
        if done:
            self._record(EventKind.RESUME, now=now, subject=queue)
        return done

    def close_limit(
        self, name: str, reason: str, *, until: StoreTime | None = None, now: StoreTime
    ) -> None:
        from dispatcher.store import limits  # noqa: PLC0415 - few tasks take limits

        refuse_nul({"name": name, "reason": reason})
        limits.close(self.engine, name, until=until, reason=reason, who=self._who, now=now)
        self._record(EventKind.LIMIT_CLOSED, now=now, subject=name, reason=reason)

    def open_limit(self, name: str, *, now: StoreTime) -> bool:
        from dispatcher.store import limits  # noqa: PLC0415 - few tasks take limits

        refuse_nul({"name": name})
        if done := self._announce(limits.open_again(self.engine, name, now)):
            self._record(EventKind.LIMIT_OPENED, now=now, subject=name)
        return done

    def drain_node(self, node_id: str, reason: str, *, now: StoreTime) -> bool:
        values = {"node": node_id, "reason": reason}
        refuse_nul(values)
        if done := self.engine.change(nodes_sql.DRAIN, values) > 0:
            self._record(EventKind.NODE_DRAIN, now=now, subject=node_id, reason=reason)
        return done

    def resume_node(self, node_id: str, *, now: StoreTime) -> bool:
        done = self._announce(self.engine.change(nodes_sql.RESUME, {"node": node_id}) > 0)
        if done:
            self._record(EventKind.NODE_RESUME, now=now, subject=node_id)
        return done

    def forget_node(self, node_id: str, *, now: StoreTime) -> bool:
        values = {"node": node_id, "shared": self.engine.dialect.shared, "now": now}
        gone = self.engine.rows(nodes_sql.FORGET, values)
        for (hostname,) in gone:
            self._record(EventKind.NODE_FORGET, now=now, subject=node_id, reason=hostname)
        return bool(gone)

    def _find(self, task_id: int) -> _Found:
        """Return a task's state, and its run if it runs; both are locked for this transaction."""
        rows = self.engine.rows(sql.STATE, {"id": task_id})
        if not rows:
            return _Found(None, None)
        state, uid, blockers, hold_kind = rows[0]
        runs = () if uid is None else self._open_runs(sql.RUN, {"uid": uid})
        return _Found(
            state_from(state), next(iter(runs), None), blockers is not None, hold_kind == OF_PARENT
        )

    def _move(self, move: moves.Move, task_id: int, now: StoreTime, **facts: object) -> None:
        rows = [{"id": task_id, **facts}]
        self._announce(moves.make(self.engine, move, rows, who=self._who, now=now) > 0)

    def _end(
        self, run: OpenRun, intent: Intent, ending: Outcome, reason: str, now: StoreTime
    ) -> None:
        """Record an intent and begin the run's ending; a leader that exited keeps its code."""
        from dispatcher.store import outlooks  # noqa: PLC0415 - for runs alone

        if outlooks.outcome_of(run) is Outcome.SUCCEEDED:
            return
        self._intend(run, intent, reason, now, None if run.leader_exited else ending)

    def _intend(
        self,
        run: OpenRun,
        intent: Intent,
        reason: str,
        now: StoreTime,
        ending: Outcome | None = None,
    ) -> None:
        values = {
            "uid": run.run_uid,
            "intent": intent.value,
            "reason": reason,
            "ending": None if ending is None else ending.value,
            "ending_reason": None if ending is None else reason,
        }
        if self._announce(self.engine.change(sql.INTEND, values) > 0):
            facts = {"task_id": run.task_id, "fence": run.fence, "before": TaskState.RUNNING.value}
            self._record(EventKind(intent.value), now=now, reason=reason, **facts)
