"""The store for readers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from dispatcher.calendar import Calendar
from dispatcher.dependency import Dependency
from dispatcher.environment import Environment
from dispatcher.events import Ledger, StoreEvent, in_order_of_task, is_doubled
from dispatcher.execution import OpenRun
from dispatcher.handover import Handover
from dispatcher.model import (
    FINISHED,
    Leases,
    Node,
    Outcome,
    PausedQueue,
    Run,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.named_limits import Closing, Rule
from dispatcher.nodes import Requiring
from dispatcher.selection import Match
from dispatcher.store import bulk_parts
from dispatcher.store.engine import NONE, Row, Values
from dispatcher.store.parameters import filter_parameters
from dispatcher.store.rows import (
    environment_from,
    event_from,
    node_from,
    open_run_from,
    run_from,
    state_from,
    task_from,
    time_from,
)
from dispatcher.store.statements import events as events_sql
from dispatcher.store.statements import nodes as nodes_sql
from dispatcher.store.statements import readers as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.store.transactions import SqlTransactions
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid

if TYPE_CHECKING:
    from dispatcher.limit_views import LimitView
    from dispatcher.schedules import ScheduleState

#: States with an order of their own.
_IN_ITS_ORDER: Final = {
    TaskState.RUNNING: sql.RUNNING,
    TaskState.SCHEDULED: sql.FIRST_DUE,
    TaskState.HELD: sql.RESTING,
    TaskState.WAITING: sql.RESTING,
}


class SqlReader(SqlTransactions):
    """`ReaderStore` on an engine."""

    def calendar(self) -> Calendar:
        return self._clock.calendar(self.engine)

    def task(self, task_id: int, *, payload: bool = True) -> Task | None:
        statement = sql.TASK if payload else sql.TASK_WITHOUT_PAYLOAD
        rows = self.engine.rows(statement, {"id": task_id})
        return task_from(rows[0]) if rows else None

    def tasks(self, wanted: TaskFilter, *, payload: bool = True) -> list[Task]:
        statement = sql.TASKS_OLDEST_FIRST if wanted.oldest_first else sql.TASKS
        statement = statement if payload else sql.without_payload(statement)
        return [task_from(row) for row in self._matching(statement, wanted)]

    def matching(self, wanted: TaskFilter) -> list[Match]:
        rows = self._matching(sql.MATCHES, wanted)
        return [Match(task_id, state_from(state)) for task_id, state in rows]

    def matching_among(self, task_ids: Collection[int], wanted: TaskFilter) -> list[Match]:
        given = {"given": rows_of([{"id": task_id} for task_id in task_ids])}
        rows = self._matching(sql.MATCHES_AMONG, wanted, given)
        return [Match(task_id, state_from(state)) for task_id, state in rows]

    def _matching(self, statement: str, wanted: TaskFilter, more: Values = NONE) -> Sequence[Row]:
        dialect = self.engine.dialect
        statement = statement.format(
            each_label=dialect.pairs("labels"), text_in_command=dialect.text_in_command
        )
        return self.engine.rows(statement, {**filter_parameters(wanted), **more})

    def ids(self) -> range:
        first = self.engine.rows(sql.FIRST_ID)
        last = self.engine.rows(sql.LAST_ID)
        return range(first[0][0], last[0][0] + 1) if first and last else range(0)

    def submitted_from(self, task_id: int) -> tuple[int, StoreTime] | None:
        rows = self.engine.rows(sql.SUBMITTED_FROM, {"id": task_id})
        return (rows[0][0], time_from(rows[0][1]) or StoreTime(0)) if rows else None

    def environment(self, environment_id: int) -> Environment | None:
        rows = self.engine.rows(sql.ENVIRONMENT, {"id": environment_id})
        return environment_from(rows[0][0]) if rows else None

    def environment_size(self, environment_id: int) -> int:
        rows = self.engine.rows(sql.ENVIRONMENT_SIZE, {"id": environment_id})
        return int(rows[0][0]) if rows else 0

    def parents(self, task_ids: Collection[int], *, limit: int) -> list[Dependency]:
        from dispatcher.store import dependencies  # noqa: PLC0415 - few tasks have parents

        return dependencies.parents(self.engine, task_ids, limit)

    def children(self, task_id: int, *, limit: int) -> list[Dependency]:
        from dispatcher.store import dependencies  # noqa: PLC0415 - few tasks have parents

        return dependencies.children(self.engine, task_id, limit)

    def handovers(self, task_ids: Collection[int]) -> dict[int, Handover]:
        from dispatcher.store import handovers  # noqa: PLC0415 - few tasks leave anything

        return handovers.handovers(self.engine, task_ids)

    def runs(self, task_id: int) -> list[Run]:
        return [run_from(row) for row in self.engine.rows(sql.RUNS, {"task_id": task_id})]

    def last_run(self, task_id: int) -> Run | None:
        rows = self.engine.rows(sql.LAST_RUN, {"task_id": task_id})
        return run_from(rows[0]) if rows else None

    def foremost(self, state: TaskState, *, queue: str | None = None, limit: int) -> list[Task]:
        if state is TaskState.READY:
            return self._next(queue, limit)
        statement = sql.LAST_FINISHED if queue is None else sql.RESTING
        statement = _IN_ITS_ORDER.get(state, statement)
        values = {"state": state.value, "queue": queue, "limit": limit}
        return [task_from(row) for row in self.engine.rows(statement, values)]

    def asking(self, *, queue: str | None = None, limit: int) -> list[Task]:
        rows = self.engine.rows(sql.ASKING, {"queue": queue, "limit": limit})
        return [task_from(row) for row in rows]

    def _next(self, queue: str | None, limit: int) -> list[Task]:
        from dispatcher.store import lanes  # noqa: PLC0415 - for few commands

        ids = lanes.foremost(self.engine, queue, limit)
        given = rows_of({"id": one} for one in ids)
        found = {row[0]: task_from(row) for row in self.engine.rows(sql.AMONG, {"given": given})}
        return [found[one] for one in ids if one in found]

    def _is_any_ready(self, labels: Mapping[str, str]) -> bool:
        from dispatcher.store import lanes  # noqa: PLC0415 - few queues have any

        return lanes.is_any_ready(self.engine, labels)

    def before(self, task: Task, *, limit: int) -> int:
        from dispatcher.store import lanes  # noqa: PLC0415 - for few commands

        return lanes.before(self.engine, task.id, task.queue, limit)

    def open_run(self, uid: RunUid) -> OpenRun | None:
        return next(iter(self._open_runs(sql.OPEN_RUN, {"uid": uid})), None)

    def open_runs_among(self, uids: Collection[RunUid]) -> dict[RunUid, OpenRun]:
        values = {"given": rows_of([{"uid": uid} for uid in uids])}
        return {run.run_uid: run for run in self._open_runs(sql.OPEN_RUNS_AMONG, values)}

    def _open_runs(self, statement: str, values: Values = NONE) -> list[OpenRun]:
        return [open_run_from(row) for row in self.engine.rows(statement, values)]

    def known_runs(self, uids: Iterable[RunUid]) -> set[RunUid]:
        rows = [{"uid": uid} for uid in uids]
        if not rows:
            return set()
        found = self.engine.rows(sql.KNOWN_RUNS, {"given": rows_of(rows)})
        return {RunUid(uid) for (uid,) in found}

    def counts(self) -> Mapping[str, Mapping[TaskState, int]]:
        counts: dict[str, dict[TaskState, int]] = {}
        for queue, state, tasks in self.engine.rows(sql.COUNTS):
            of_queue, known = counts.setdefault(queue, {}), state_from(state)
            of_queue[known] = of_queue.get(known, 0) + tasks
        return counts

    def ready_since(self, *, anywhere: bool = False) -> Mapping[str, StoreTime]:
        rows = self.engine.rows(sql.READY_ANYWHERE_SINCE if anywhere else sql.READY_SINCE)
        return {queue: since for queue, value in rows if (since := time_from(value)) is not None}

    def requiring(self, *, limit: int) -> list[Requiring]:
        from dispatcher.store import lanes  # noqa: PLC0415 - for few commands

        return lanes.requiring(self.engine, limit)

    def outcomes(self) -> Mapping[Outcome, int]:
        return {Outcome(outcome): runs for outcome, runs in self.engine.rows(sql.OUTCOMES)}

    def wrong_counts(self) -> Mapping[tuple[str, str], int]:
        from dispatcher.store import counting  # noqa: PLC0415 - for `doctor`

        return counting.wrong_counts(self.engine)

    def leases(self) -> Leases:
        (row,) = self.engine.rows(sql.LEASES)
        return Leases(row[0], *map(time_from, row[1:]))

    def nodes(self) -> Sequence[Node]:
        return [node_from(row) for row in self.engine.rows(nodes_sql.NODES)]

    def node(self, node_id: str) -> Node | None:
        rows = self.engine.rows(nodes_sql.NODE, {"node": node_id})
        return node_from(rows[0]) if rows else None

    def running_in(self, queue: str) -> int:
        from dispatcher.store import limits  # noqa: PLC0415 - few queues have a limit

        return limits.running_in(self.engine, queue)

    def closings(self) -> list[Closing]:
        from dispatcher.store import limits  # noqa: PLC0415 - few tasks take limits

        return limits.closings(self.engine)

    def limit_views(self, rules: Mapping[str, Rule], *, now: StoreTime) -> dict[str, LimitView]:
        from dispatcher.store import limits  # noqa: PLC0415 - few tasks take limits

        return limits.views(self.engine, rules, now)

    def limits_taken(self) -> set[str]:
        from dispatcher.store import limits  # noqa: PLC0415 - few tasks take limits

        return limits.taken(self.engine)

    def running_by_node(self) -> Mapping[str, int]:
        return dict(self.engine.rows(nodes_sql.RUNNING_BY_NODE))

    def paused_queues(self) -> list[PausedQueue]:
        return [PausedQueue(*row) for row in self.engine.rows(sql.PAUSED_QUEUES)]

    def prunable(self, *, before: StoreTime, states: Collection[TaskState] = FINISHED) -> int:
        return sum(
            self.engine.rows(sql.PRUNABLE, {"state": state.value, "before": before})[0][0]
            for state in states
        )

    def last_events(self, ledger: Ledger, *, before: int, limit: int) -> list[StoreEvent]:
        return self._events(events_sql.LAST[ledger], {"before": before, "limit": limit})

    def new_events(
        self, ledger: Ledger, *, after: int, gaps: Sequence[range] = (), limit: int
    ) -> list[StoreEvent]:
        found = []
        if gaps:
            rows = [{"low_id": one.start, "high_id": one.stop - 1} for one in gaps]
            found = self._events(events_sql.AMONG[ledger], {"given": rows_of(rows)})
            found.sort(key=attrgetter("id"))
        return found + self._events(events_sql.NEW[ledger], {"after": after, "limit": limit})

    def task_events(self, task_id: int) -> list[StoreEvent]:
        found = (self._events(events_sql.OF_TASK[one], {"task_id": task_id}) for one in Ledger)
        return in_order_of_task(one for each in found for one in each if not is_doubled(one))

    def _events(self, statement: str, values: Values) -> list[StoreEvent]:
        return [event_from(row) for row in self.engine.rows(statement, values)]

    def schedules(self) -> list[ScheduleState]:
        from dispatcher.store import scheduling  # noqa: PLC0415 - few stores have schedules

        return scheduling.every(self.engine)

    def unfinished_of(self, origin: str, *, limit: int) -> list[Match]:
        from dispatcher.store import scheduling  # noqa: PLC0415 - few stores have schedules

        return scheduling.unfinished(self.engine, origin, limit)

    def coming(self) -> int:
        return bulk_parts.coming(self.engine)

    def damaged_parts(self) -> list[str]:
        return bulk_parts.damaged(self.engine)
