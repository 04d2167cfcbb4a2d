"""The store for operators: a verb acts at once, or is kept as a running task's intent.

A verb that would change nothing, as the run has succeeded, writes neither intent nor ending.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from dispatcher.execution import Claim, OpenRun
from dispatcher.model import FINISHED, Intent, Outcome, Pruned, Task, TaskFilter, TaskState
from dispatcher.selection import CHANGES, of_one
from dispatcher.store import claims
from dispatcher.store.parameters import edit_parameters, edited_columns
from dispatcher.store.readers import SqlReader
from dispatcher.store.rows import state_from
from dispatcher.store.statements import claims as claims_sql
from dispatcher.store.statements import operators as sql
from dispatcher.store.statements import submitters as submitters_sql
from dispatcher.times import StoreTime

if TYPE_CHECKING:
    from dispatcher.policy import RetryPolicy


class SqlOperator(SqlReader):
    """`OperatorStore` on an engine."""

    def cancel(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        state, run = self._find(task_id)
        if run is not None:
            self._end(run, Intent.CANCEL, Outcome.CANCELLED, reason)
        elif state not in FINISHED:
            values = {"id": task_id, "reason": reason, "now": now}
            self._announce(self.engine.change(sql.CANCEL, values) > 0)
        return state

    def hold(
        self, task_id: int, reason: str, *, replace_reason: bool = True, now: StoreTime
    ) -> TaskState | None:
        state, run = self._find(task_id)
        if run is not None:
            if not _can_be_held(run, now):
                return state
            self._end(run, Intent.HOLD, Outcome.HELD, reason)
        elif state not in FINISHED and (state is not TaskState.HELD or replace_reason):
            values = {"id": task_id, "reason": reason}
            self._announce(self.engine.change(claims_sql.HOLD, values) > 0)
        return state

    def retry(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        state, run = self._find(task_id)
        if state in CHANGES[Intent.RETRY]:
            self._announce(self.engine.change(sql.RETRY, {"id": task_id, "now": now}) > 0)
        elif run is not None and run.is_ending and _outcome(run) is not Outcome.SUCCEEDED:
            self._intend(run, Intent.RETRY, "retried by operator")
        return state

    def release(self, task_id: int, *, policy: RetryPolicy, now: StoreTime) -> TaskState | None:
        state, run = self._find(task_id)
        if state is TaskState.HELD:
            self._announce(self.engine.change(sql.RELEASE, {"id": task_id, "now": now}) > 0)
        elif run is not None and run.is_ending and _can_be_released(run, policy, now):
            self._intend(run, Intent.RELEASE, "released by operator")
        return state

    def edit(self, before: Task, after: Task, *, now: StoreTime) -> bool:
        changed = edited_columns(before, after)
        values = {**edit_parameters(before, after, now), **changed}
        return self._announce(self.engine.change(sql.edit(tuple(changed)), values) > 0)

    def pause(self, queue: str, reason: str, *, now: StoreTime) -> bool:
        values = {"queue": queue, "reason": reason, "now": now}
        return self.engine.change(sql.PAUSE, values) > 0

    def resume(self, queue: str) -> bool:
        return self._announce(self.engine.change(sql.RESUME, {"queue": queue}) > 0)

    def prune(
        self, *, before: StoreTime, limit: int, states: Collection[TaskState] = FINISHED
    ) -> Pruned:
        return self._delete(self._old(before, limit, states), limit)

    def prune_each(self, task_ids: Iterable[int], wanted: TaskFilter, *, limit: int) -> Pruned:
        return self._delete(self._finished(task_ids, wanted), limit)

    def _delete(self, found: Iterable[tuple[int, int]], limit: int) -> Pruned:
        """Delete at most `limit` rows of tasks, which come with their payloads (in 64 KiB)."""
        tasks, left = 0, limit
        paths: list[str] = []
        for task_id, payload in found:
            if payload >= left and tasks:
                return Pruned(tasks, tuple(paths), more=True)
            runs = self.engine.rows(sql.OLD_RUNS, {"task_id": task_id, "limit": left})
            paths += [path for _, path in runs]
            if len(runs) >= left:  # no room for the task itself, and it may have more
                self.engine.change_each(sql.DELETE_RUN, [{"id": run_id} for run_id, _ in runs])
                return Pruned(tasks, tuple(paths), more=True)
            self._delete_task(task_id)
            tasks += 1
            left = max(0, left - len(runs) - payload - 1)
        return Pruned(tasks, tuple(paths), more=tasks == limit)

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
            statement, values = claims_sql.READY, {"queue": queue, "limit": 1}
        else:
            statement, values = claims_sql.READY_TASK, {"task_id": task_id}
        statement += self.engine.dialect.skip_locked
        for ready in claims.claimable(self.engine, statement, values):
            return claims.claim_by_hand(
                self.engine,
                ready,
                owner=owner,
                output_dir=output_dir,
                lease_ttl_ms=lease_ttl_ms,
                now=now,
            )
        return None

    def _find(self, task_id: int) -> tuple[TaskState | None, OpenRun | None]:
        """Return a task's state, and its run if it runs; both are locked for this transaction."""
        rows = self.engine.rows(sql.STATE + self.engine.dialect.lock_row, {"id": task_id})
        if not rows:
            return None, None
        state, uid = rows[0]
        return state_from(state), self.open_run(uid)

    def _end(self, run: OpenRun, intent: Intent, ending: Outcome, reason: str) -> None:
        """Record an intent and begin the run's ending; a leader that exited keeps its code."""
        if _outcome(run) is Outcome.SUCCEEDED:
            return
        self._intend(run, intent, reason)
        if not run.leader_exited:
            claims.begin_ending(self.engine, run.run_uid, ending, reason)

    def _intend(self, run: OpenRun, intent: Intent, reason: str) -> None:
        values = {"uid": run.run_uid, "intent": intent.value, "reason": reason}
        self._announce(self.engine.change(sql.INTEND, values) > 0)

    def _delete_task(self, task_id: int) -> None:
        """Delete a task, and its environment if no other task has it."""
        for (environment_id,) in self.engine.rows(sql.DELETE, {"id": task_id}):
            if environment_id is not None:
                self.engine.change(submitters_sql.REMOVE_UNUSED_ENVIRONMENT, {"id": environment_id})

    def _old(
        self, before: StoreTime, limit: int, states: Collection[TaskState]
    ) -> Iterator[tuple[int, int]]:
        """Yield id and payload (in 64 KiB) of at most `limit` tasks, of each state oldest first."""
        for state in sorted(states):
            values = {"state": state.value, "before": before, "limit": limit}
            rows = self.engine.rows(sql.OLD, values)
            yield from rows
            limit -= len(rows)
            if not limit:
                return

    def _finished(self, task_ids: Iterable[int], wanted: TaskFilter) -> Iterator[tuple[int, int]]:
        """Yield id and payload (in 64 KiB) of those that match and have finished."""
        for task_id in task_ids:
            for one in self.matching(of_one(wanted, task_id)):
                if one.state in FINISHED:
                    yield task_id, self.engine.rows(sql.SIZE, {"task_id": task_id})[0][0]


def _outcome(run: OpenRun) -> Outcome:
    """Return the outcome of a run, as far as it is decided."""
    from dispatcher.policy import verdict  # noqa: PLC0415 - no submit needs it

    return verdict(run, None).outcome


def _can_be_held(run: OpenRun, now: StoreTime) -> bool:
    """Return whether a run's task may still wait: its total time-out is not over."""
    from dispatcher.policy import RetryPolicy, next_state  # noqa: PLC0415 - no submit needs it

    held = replace(run, intent=Intent.HOLD)  # no policy changes where this intent leads
    return next_state(held, RetryPolicy(), now=now) is TaskState.HELD


def _can_be_released(run: OpenRun, policy: RetryPolicy, now: StoreTime) -> bool:
    """Return whether a run's task would be held at its settle, and ready if released."""
    from dispatcher.policy import next_state  # noqa: PLC0415 - no submit needs it

    held = next_state(run, policy, now=now) is TaskState.HELD
    released = replace(run, intent=Intent.RELEASE)
    return held and next_state(released, policy, now=now) is TaskState.READY
