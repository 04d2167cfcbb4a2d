"""The store for operators: a verb acts at once, or is kept as a running task's intent.

A verb that would change nothing, as the run has succeeded, writes neither intent nor ending.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from dispatcher.execution import Claim, OpenRun, Rows
from dispatcher.model import (
    FINISHED,
    NO_LABELS,
    Intent,
    Outcome,
    Pruned,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.selection import CHANGES
from dispatcher.store import claims, moves
from dispatcher.store.engine import Values, refuse_nul
from dispatcher.store.parameters import edit_parameters, edited_columns, labels_text
from dispatcher.store.readers import SqlReader
from dispatcher.store.rows import state_from
from dispatcher.store.statements import claims as claims_sql
from dispatcher.store.statements import locks as locks_sql
from dispatcher.store.statements import nodes as nodes_sql
from dispatcher.store.statements import operators as sql
from dispatcher.store.statements import submitters as submitters_sql
from dispatcher.store.statements.given import rows_of
from dispatcher.times import StoreTime

#: The parameters of a claim that no node makes.
_NO_NODE: Final = {"node": "", "session": ""}


class SqlOperator(SqlReader):
    """`OperatorStore` on an engine."""

    def cancel(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        refuse_nul({"reason": reason})
        state, run = self._find(task_id)
        if run is not None:
            self._end(run, Intent.CANCEL, Outcome.CANCELLED, reason)
        elif state not in FINISHED:
            self._move(moves.CANCEL, task_id, now, reason=reason)
        return state

    def hold(
        self, task_id: int, reason: str, *, replace_reason: bool = True, now: StoreTime
    ) -> TaskState | None:
        refuse_nul({"reason": reason})
        state, run = self._find(task_id)
        if run is not None:
            if not _can_be_held(run, now):
                return state
            self._end(run, Intent.HOLD, Outcome.HELD, reason)
        elif state not in FINISHED and (state is not TaskState.HELD or replace_reason):
            self._move(moves.HOLD, task_id, now, reason=reason)
        return state

    def retry(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        state, run = self._find(task_id)
        if state in CHANGES[Intent.RETRY]:
            self._move(moves.RETRY, task_id, now)
        elif run is not None and run.is_ending and _outcome(run) is not Outcome.SUCCEEDED:
            self._intend(run, Intent.RETRY, "retried by operator")
        return state

    def release(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        state, run = self._find(task_id)
        if state is TaskState.HELD:
            self._move(moves.RELEASE, task_id, now)
        elif run is not None and run.is_ending and _can_be_released(run, now):
            self._intend(run, Intent.RELEASE, "released by operator")
        return state

    def edit(self, before: Task, after: Task, *, now: StoreTime) -> bool:
        changed = edited_columns(before, after)
        values = {**edit_parameters(before, after, now), **changed}
        return self._announce(self.engine.change(sql.edit(tuple(changed)), values) > 0)

    def lock_for_edit(self, task_ids: Collection[int], queue: str | None) -> None:
        self.lock_rows(Rows(tasks=task_ids))
        if queue is not None and self.engine.dialect.shared:
            values = {"given": rows_of([{"id": one} for one in task_ids]), "queue": queue}
            self.engine.rows(locks_sql.KEYS_OF, values)

    def pause(self, queue: str, reason: str, *, now: StoreTime) -> bool:
        values = {"queue": queue, "reason": reason, "now": now}
        refuse_nul(values)
        return self.engine.change(sql.PAUSE, values) > 0

    def resume(self, queue: str) -> bool:
        refuse_nul({"queue": queue})
        return self._announce(self.engine.change(sql.RESUME, {"queue": queue}) > 0)

    def drain_node(self, node_id: str, reason: str) -> bool:
        values = {"node": node_id, "reason": reason}
        refuse_nul(values)
        return self.engine.change(nodes_sql.DRAIN, values) > 0

    def resume_node(self, node_id: str) -> bool:
        return self._announce(self.engine.change(nodes_sql.RESUME, {"node": node_id}) > 0)

    def forget_node(self, node_id: str, *, now: StoreTime) -> bool:
        values = {"node": node_id, "shared": self.engine.dialect.shared, "now": now}
        return self.engine.change(nodes_sql.FORGET, values) > 0

    def prune(
        self, *, before: StoreTime, limit: int, states: Collection[TaskState] = FINISHED
    ) -> Pruned:
        return self._delete(list(self._old(before, limit, states)), limit)

    def prune_each(self, task_ids: Sequence[int], wanted: TaskFilter, *, limit: int) -> Pruned:
        self.lock_rows(Rows(tasks=task_ids))
        matching = {one.id for one in self.matching_among(task_ids, wanted)}
        rows = [
            {"id": task_id, "place": place}
            for place, task_id in enumerate(task_ids)
            if task_id in matching
        ]
        return self._delete(self.engine.rows(sql.FINISHED, {"given": rows_of(rows)}), limit)

    def _delete(self, found: Sequence[tuple[int, int]], limit: int) -> Pruned:
        """Delete at most `limit` rows of tasks, given by id and size of payload (in 64 KiB)."""
        rows = rows_of([{"id": task_id} for task_id, _ in found])
        runs: dict[int, int] = dict(
            self.engine.rows(sql.MANY_RUNS, {"given": rows, "limit": limit})
        )
        whole: list[Values] = []
        left = limit
        for task_id, payload in found:
            if payload >= left and whole:
                break
            if runs[task_id] >= left:  # no room for the task itself, and it may have more
                paths = self._delete_whole(whole)
                return Pruned(len(whole), (*paths, *self._delete_runs(task_id, left)), more=True)
            whole.append({"id": task_id})
            left = max(0, left - runs[task_id] - payload - 1)
        more = len(whole) < len(found) or len(whole) == limit
        return Pruned(len(whole), self._delete_whole(whole), more=more)

    def claim_local(
        self,
        queue: str,
        *,
        owner: str,
        output_dir: str,
        task_id: int | None = None,
        lease_ttl_ms: int | None = None,
        labels: Mapping[str, str] = NO_LABELS,
        now: StoreTime,
    ) -> Claim | None:
        if task_id is None:
            statement = claims.ready(self.engine.dialect)
            values = {"queue": queue, "limit": 1, "labels": labels_text(labels), **_NO_NODE}
        else:
            statement, values = claims_sql.READY_TASK, {"task_id": task_id}
        for ready in claims.claimable(self.engine, statement, values, now=now) or ():
            self._histories.refuse_by_hand(ready, now)
            return claims.claim_by_hand(
                self.engine,
                ready,
                owner=owner,
                output_dir=output_dir,
                lease_ttl_ms=lease_ttl_ms,
                fences_after=self.history.fences_after,
                now=now,
            )
        return None

    def _find(self, task_id: int) -> tuple[TaskState | None, OpenRun | None]:
        """Return a task's state, and its run if it runs; both are locked for this transaction."""
        rows = self.engine.rows(sql.STATE, {"id": task_id})
        if not rows:
            return None, None
        state, uid = rows[0]
        runs = () if uid is None else self._open_runs(sql.RUN, {"uid": uid})
        return state_from(state), next(iter(runs), None)

    def _move(self, move: moves.Move, task_id: int, now: StoreTime, **facts: object) -> None:
        self._announce(moves.make(self.engine, move, [{"id": task_id, **facts}], now=now) > 0)

    def _end(self, run: OpenRun, intent: Intent, ending: Outcome, reason: str) -> None:
        """Record an intent and begin the run's ending; a leader that exited keeps its code."""
        if _outcome(run) is Outcome.SUCCEEDED:
            return
        self._intend(run, intent, reason, None if run.leader_exited else ending)

    def _intend(
        self, run: OpenRun, intent: Intent, reason: str, ending: Outcome | None = None
    ) -> None:
        values = {
            "uid": run.run_uid,
            "intent": intent.value,
            "reason": reason,
            "ending": None if ending is None else ending.value,
            "ending_reason": None if ending is None else reason,
        }
        self._announce(self.engine.change(sql.INTEND, values) > 0)

    def _delete_whole(self, tasks: Sequence[Values]) -> tuple[str, ...]:
        """Delete tasks with their runs, whose outputs are returned, and unused environments."""
        if not tasks:
            return ()
        rows = {"given": rows_of(tasks)}
        if self.engine.dialect.shared:
            self.engine.rows(locks_sql.KEYS_OF, {**rows, "queue": None})
            self.engine.rows(locks_sql.ENVIRONMENTS, rows)
        paths = tuple(path for (path,) in self.engine.rows(sql.OUTPUTS, rows))
        environments = {number for (number,) in self.engine.rows(sql.DELETE, rows)} - {None}
        if environments:
            rows = {"given": rows_of([{"id": number} for number in environments])}
            if self.engine.dialect.shared:
                self.engine.rows(locks_sql.UNUSED_ENVIRONMENTS, rows)
            self.engine.change(submitters_sql.REMOVE_UNUSED_ENVIRONMENTS, rows)
        return paths

    def _delete_runs(self, task_id: int, limit: int) -> tuple[str, ...]:
        runs = self.engine.rows(sql.SOME_RUNS, {"id": task_id, "limit": limit})
        self.engine.change(
            sql.DELETE_RUNS, {"given": rows_of([{"id": run_id} for run_id, _ in runs])}
        )
        return tuple(path for _, path in runs)

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


def _outcome(run: OpenRun) -> Outcome:
    """Return the outcome of a run, as far as it is decided."""
    from dispatcher.policy import verdict  # noqa: PLC0415 - no submit needs it

    return verdict(run, None).outcome


def _can_be_held(run: OpenRun, now: StoreTime) -> bool:
    """Return whether a run's task may still wait: its total time-out is not over."""
    from dispatcher.policy import next_state  # noqa: PLC0415 - no submit needs it

    held = replace(run, intent=Intent.HOLD)
    return next_state(held, now=now) is TaskState.HELD


def _can_be_released(run: OpenRun, now: StoreTime) -> bool:
    """Return whether a run's task would be held at its settle, and ready if released."""
    from dispatcher.policy import next_state  # noqa: PLC0415 - no submit needs it

    held = next_state(run, now=now) is TaskState.HELD
    released = replace(run, intent=Intent.RELEASE)
    return held and next_state(released, now=now) is TaskState.READY
