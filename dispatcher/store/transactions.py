"""Transactions on an engine, at the store's time: what all parts of the store share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from dispatcher.calendar import Calendar, Setting
from dispatcher.errors import CommitUnknown
from dispatcher.events import EventKind
from dispatcher.execution import NO_ROWS, NONE_HELD, Held, Rows
from dispatcher.history import History
from dispatcher.host.owner import acting_user
from dispatcher.model import TaskState
from dispatcher.store.api import Version
from dispatcher.store.bell import NO_BELL, Bell
from dispatcher.store.engine import RETURNED, Engine, Followed, Values, transaction
from dispatcher.store.failover import HistoryWatch
from dispatcher.store.statements import events as events_sql
from dispatcher.store.statements import locks as locks_sql
from dispatcher.store.statements import supervisor as sql
from dispatcher.store.statements.given import given, rows_of
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid

if TYPE_CHECKING:
    from dispatcher.hooks import Hooks

#: What an event of `SqlTransactions._record` may lack.
_NO_FACTS: Final = dict.fromkeys(("task_id", "subject", "fence", "before", "after", "reason"), None)


class StoreClock(Protocol):
    """The source of store time. Each transaction calls `begin` first; all methods run in one."""

    def begin(self, engine: Engine, *, write: bool) -> StoreTime:
        """Return the store time of the transaction."""

    def watch(self, engine: Engine) -> Setting:
        """Return the last setting of the host's clock."""

    def calendar(self, engine: Engine) -> Calendar:
        """Return the host's clock, now and earlier, relative to store time."""

    def was_set(self) -> bool:
        """Return whether the host's clock was set since it was last watched."""

    def step(self) -> int:
        """Return by how many ms a server's clock was set since `accept_step`; 0: by none."""

    def accept_step(self) -> None:
        """Count from the clock as it is now."""


class SqlTransactions:
    """`Transactions` on an engine whose schema `migrate` has prepared."""

    def __init__(
        self, engine: Engine, identity: str, clock: StoreClock, bell: Bell = NO_BELL
    ) -> None:
        self.engine = engine
        self.bell = bell
        self._identity = identity
        self._clock = clock
        self._histories = HistoryWatch(engine)
        self._hooks: Hooks | None = None
        self._news = 0
        """How many changes that give daemons work were made here, also if they were rolled back."""
        self._announces = False
        """Whether the transaction gives daemons work."""
        self._first_due = math.inf
        """The earliest time for which it schedules a task."""

    @property
    def identity(self) -> str:
        return self._identity

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        self._announces, self._first_due, commits = False, math.inf, False
        if (followed := self.engine.followed) is not None:
            followed.ids = []
        try:
            with transaction(self.engine, write=True):
                now = self._clock.begin(self.engine, write=True)
                self._histories.follow(now)
                yield now
                if followed is not None and followed.ids:
                    self._submit_for_hooks(followed.ids, now)
                self._announce_with_commit()
                commits = True
        except BaseException as error:
            is_unknown = isinstance(error, CommitUnknown) or not isinstance(error, Exception)
            if commits and is_unknown:
                self._ring()
            raise
        self._ring()

    @contextmanager
    def snapshot(self) -> Iterator[StoreTime]:
        with transaction(self.engine, write=False):
            yield self._clock.begin(self.engine, write=False)

    @property
    def history(self) -> History:
        return self._histories.known

    def version(self) -> Version | None:
        seen = self.engine.version()
        return (
            None if seen is None or self._clock.was_set() else (seen, self._news, self.bell.heard)
        )

    @property
    def announces(self) -> bool:
        return self._announces or self._first_due < math.inf

    def watch_clock(self) -> Setting:
        return self._clock.watch(self.engine)

    def lock_rows(self, tasks: Rows, runs: Rows = NO_ROWS) -> None:
        if not self.engine.dialect.shared:
            return
        if tasks.node is not None:
            self.engine.rows(locks_sql.NODE, {"node": tasks.node})
        if tasks:
            self.engine.later(locks_sql.TASKS, self._named(tasks))
        self.engine.rows(locks_sql.OPEN_RUNS, self._named(tasks, runs))

    def lock_free(self, wanted: Rows, *, node: str) -> Held:
        if not self.engine.dialect.shared:
            return NONE_HELD
        values = self._named(wanted)
        named: dict[RunUid, int] = dict(self.engine.rows(locks_sql.NAMED_RUNS, values))
        tasks = {task_id for (task_id,) in self.engine.rows(locks_sql.FREE_TASKS, values)}
        runs = {uid for uid, _ in self.engine.rows(locks_sql.FREE_RUNS, values)}
        return Held(
            tasks={
                uid: task_id
                for uid, task_id in named.items()
                if uid not in runs or task_id not in tasks
            },
            runs=frozenset(named.keys() - runs),
            node=bool(self.engine.rows(locks_sql.NODE_IS_HELD, {"node": node})),
        )

    def lock_holder(self, held: Held, *, node: str) -> str | None:
        if not self.engine.dialect.lock_holder:
            return None
        statement = self.engine.dialect.lock_holder.replace("{given}", given("uid"))
        uids = rows_of({"uid": uid} for uid in held.tasks)
        found = self.engine.rows(statement, {"given": uids, "node": node})
        return next((text for (text,) in found), None)

    def _named(self, *wanted: Rows) -> Values:
        rows: list[dict[str, object]] = [{"task_id": one} for each in wanted for one in each.tasks]
        rows += [{"uid": one} for each in wanted for one in each.runs]
        node = next((each.node for each in wanted if each.node is not None), None)
        return {"given": rows_of(rows), "node": node}

    def server_step(self) -> int:
        return self._clock.step()

    def accept_server_step(self) -> None:
        self._clock.accept_step()

    def act_as(self, who: str) -> None:
        self._who = who

    def use_hooks(self, hooks: Hooks | None) -> None:
        self._hooks = hooks
        self.engine.followed = None if hooks is None else Followed(hooks.states, hooks.kinds)

    def _submit_for_hooks(self, event_ids: Sequence[int], now: StoreTime) -> None:
        """Submit the tasks that hooks have for events of this transaction."""
        raise NotImplementedError

    @cached_property
    def _who(self) -> str:
        return acting_user()

    def _record(self, kind: EventKind, *, now: StoreTime, **facts: object) -> None:
        """Write an event of what a statement of this transaction has changed."""
        values = {**_NO_FACTS, "who": self._who, **facts, "kind": kind.value, "now": now}
        self._write_event(events_sql.ADD, values)

    def _limit_changed(self, now: StoreTime, kind: EventKind, limit: str, reason: str) -> None:
        """Write that a limit has opened by itself, or that a breaker closed or opened it."""
        self._record(kind, now=now, subject=limit, reason=reason)

    def _write_event(self, statement: str, values: Values) -> None:
        """Write an event that is no move, and note it for hooks."""
        if (followed := self.engine.followed) is None or not followed.kinds:
            self.engine.later(statement, values)
        else:
            followed.note(self.engine.rows(f"{statement} {RETURNED}", values))

    def _announce(self, changed: bool = True) -> bool:
        """Let the commit wake the daemons, if a statement `changed` anything; return that."""
        self._announces |= changed
        self._news += changed
        return changed

    def _announce_task(self, state: object, run_at: Any) -> None:
        """Announce a task that is ready, or scheduled before all others (None: for now)."""
        if state == TaskState.SCHEDULED and run_at is not None:
            self._first_due = min(self._first_due, run_at)
            self._news += 1
        elif state in (TaskState.SCHEDULED, TaskState.READY):
            self._announce()

    def _announce_with_commit(self) -> None:
        """Announce the task due next, if it is new; ring by the commit, where that is possible."""
        if self._first_due < math.inf and not self._announces:
            self._announce(self.engine.rows(sql.NEXT_DUE) == [(self._first_due,)])
        if self._announces and self.bell.statement:
            self.engine.later(self.bell.statement)

    def _ring(self) -> None:
        if self._announces:
            self.bell.ring()
