"""The store for the daemon's ticks."""

# ruff: noqa: ARG002 -- the methods, their arguments and their contracts are the Protocol's.

from collections.abc import Iterable
from dataclasses import asdict

from dispatcher.execution import Claim, OpenRun, Settlement
from dispatcher.model import GivenUp, Node, Outcome
from dispatcher.store import bulk_parts, claims
from dispatcher.store.engine import NONE, Values
from dispatcher.store.parameters import remains_parameters, settlement_parameters
from dispatcher.store.readers import SqlReader
from dispatcher.store.rows import given_up_from, time_from
from dispatcher.store.statements import claims as claims_sql
from dispatcher.store.statements import supervisor as sql
from dispatcher.store.workers import SqlWorker
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid


class SqlSupervisor(SqlReader, SqlWorker):
    """`SupervisorStore` on an engine."""

    def move_due(self, *, limit: int, now: StoreTime) -> int:
        statement = sql.DUE + self.engine.dialect.skip_locked
        due = self.engine.rows(statement, {"limit": limit, "now": now})
        if due:
            values = [{"id": task_id, "now": now} for (task_id,) in due]
            self.engine.change_each(sql.MAKE_READY, values)
        self._announce(bool(due))
        return len(due)

    def next_due(self) -> StoreTime | None:
        return self._first_time(sql.NEXT_DUE)

    def give_up(self, *, limit: int, now: StoreTime) -> list[GivenUp]:
        statement = sql.OVERDUE + self.engine.dialect.skip_locked
        overdue = self.engine.rows(statement, {"limit": limit, "now": now})
        given_up = [given_up_from(row, now) for row in overdue]
        values = [{"id": one.task_id, "reason": one.reason, "now": now} for one in given_up]
        self.engine.change_each(sql.GIVE_UP, values)
        return given_up

    def next_failure(self) -> StoreTime | None:
        return self._first_time(sql.NEXT_FAILURE)

    def ready_queues(self, *, after: str, limit: int) -> list[str]:
        rows = self.engine.rows(sql.READY_QUEUES, {"after": after, "limit": limit})
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
        statement = claims_sql.READY + self.engine.dialect.skip_locked
        values = {"queue": queue, "limit": limit}
        return [
            claims.claim(
                self.engine,
                ready,
                owner=node,
                output_dir=output_dir,
                takeover_at=ready.takeover_at(until),
                now=now,
            )
            for ready in claims.claimable(self.engine, statement, values, kill_grace_ms)
        ]

    def record_started(
        self, uid: RunUid, *, pid: int, started_at: StoreTime, now: StoreTime
    ) -> bool:
        values = {"uid": uid, "pid": pid, "started_at": started_at, "now": now}
        if not self.engine.change(sql.RECORD_STARTED, values):
            return False
        self.engine.change(sql.BEGIN_LEASE, values)
        return True

    def record_leader_exit(
        self, uid: RunUid, *, exit_code: int | None, signal: int | None, now: StoreTime
    ) -> bool:
        values = {"uid": uid, "exit_code": exit_code, "signal": signal}
        return self.engine.change(sql.RECORD_LEADER_EXIT, values) > 0

    def renew(self, node: str, *, now: StoreTime) -> int:
        return self.engine.change(sql.RENEW, {"node": node, "now": now})

    def expired(self, node: str, *, limit: int, now: StoreTime) -> list[OpenRun]:
        return self._open_runs(sql.EXPIRED, {"node": node, "limit": limit, "now": now})

    def next_expiry(self, node: str) -> StoreTime | None:
        return self._first_time(sql.NEXT_EXPIRY, {"node": node})

    def open_runs(self, node: str) -> list[OpenRun]:
        return self._open_runs(sql.OPEN_RUNS, {"node": node})

    def endings(self, node: str) -> list[OpenRun]:
        return self._open_runs(sql.ENDINGS, {"node": node})

    def begin_ending(self, uid: RunUid, ending: Outcome, reason: str, *, now: StoreTime) -> bool:
        return self._announce(claims.begin_ending(self.engine, uid, ending, reason))

    def settle(self, settlement: Settlement, *, now: StoreTime) -> bool:
        values = settlement_parameters(settlement, now)
        if not self.engine.change(sql.CLOSE, values):
            return False
        if settlement.total_anew:
            self.engine.change(sql.BEGIN_TOTAL_ANEW, values)
        self.engine.change(sql.MOVE_ON, values)
        self._announce_task(settlement.state, settlement.run_at)
        if (remains := remains_parameters(settlement)) is not None:
            self.engine.change(sql.REMAINS, remains)
        return True

    def confirm(self, node: str, until: StoreTime | None) -> int:
        return self.engine.change(sql.CONFIRM, {"node": node, "until": until})

    def abandoned(self, *, limit: int, now: StoreTime) -> list[OpenRun]:
        statement = sql.ABANDONED + self.engine.dialect.skip_locked
        return self._open_runs(statement, {"limit": limit, "now": now})

    def stranded(self, node: str, *, now: StoreTime) -> list[OpenRun]:
        dialect = self.engine.dialect
        values = {"node": node, "alone": not dialect.shared, "now": now}
        return self._open_runs(sql.STRANDED + dialect.skip_locked, values)

    def next_takeover(self, node: str, *, now: StoreTime) -> StoreTime | None:
        return self._first_time(sql.NEXT_TAKEOVER, {"node": node, "now": now})

    def has_unfinished(self, *, but: Iterable[str] = ()) -> bool:
        values = {"but": "".join(f" {queue} " for queue in but)}
        ((unfinished,),) = self.engine.rows(sql.HAS_UNFINISHED, values)
        return bool(unfinished) or bulk_parts.is_coming(self.engine)

    def record_node(self, node: Node) -> None:
        self.engine.change(sql.RECORD_NODE, asdict(node))

    def _first_time(self, statement: str, values: Values = NONE) -> StoreTime | None:
        rows = self.engine.rows(statement, values)
        return time_from(rows[0][0]) if rows else None
