"""The store for the daemon's ticks."""

# ruff: noqa: ARG002 -- the methods, their arguments and their contracts are the Protocol's.
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from functools import partial

from dispatcher.events import EventKind
from dispatcher.execution import (
    BegunEnding,
    Claims,
    GivenUp,
    OpenRun,
    Settlement,
    StartedRun,
)
from dispatcher.history import Postponed
from dispatcher.model import NO_LABELS, Node, Outcome
from dispatcher.named_limits import NO_RULES, Given, Rule, of_queue
from dispatcher.store import bulk_parts, claims, moves
from dispatcher.store.engine import NONE, Values
from dispatcher.store.parameters import closing, moving_on, node_parameters
from dispatcher.store.readers import SqlReader
from dispatcher.store.rows import ending_from, given_up_from, time_from
from dispatcher.store.statements import history as history_sql
from dispatcher.store.statements import nodes as nodes_sql
from dispatcher.store.statements import supervisor as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.store.statements.work import NEXT_WORK
from dispatcher.store.submits import CONTINUE_AFTER, GONE_AFTER
from dispatcher.store.workers import SqlWorker
from dispatcher.times import StoreTime
from dispatcher.wire import Exit, RunUid


class SqlSupervisor(SqlReader, SqlWorker):
    """`SupervisorStore` on an engine."""

    def move_due(self, *, limit: int, now: StoreTime) -> int:
        due = self.engine.rows(sql.DUE, {"limit": limit, "now": now})
        rows = [{"id": task_id} for (task_id,) in due]
        moves.make(self.engine, moves.DUE, rows, who=self._who, now=now)
        self._announce(bool(due))
        return len(due)

    def next_due(self) -> StoreTime | None:
        return self._first_time(sql.NEXT_DUE)

    def next_due_or_keys(self) -> tuple[StoreTime | None, bool]:
        ((due, keys),) = self.engine.rows(sql.NEXT_DUE_OR_KEYS)
        return time_from(due), bool(keys)

    def give_keys(self, *, limit: int) -> Given:
        from dispatcher.store import keys  # noqa: PLC0415 - few tasks have keys

        given = keys.give_free(self.engine, limit=limit)
        self._announce(given.many > 0)
        return given

    def resolve(self, *, limit: int, now: StoreTime) -> bool:
        from dispatcher.store import dependencies  # noqa: PLC0415 - for daemons alone

        many, more = dependencies.resolve(self.engine, limit=limit, who=self._who, now=now)
        self._announce(many > 0)
        return more

    def give_up(self, *, limit: int, now: StoreTime) -> list[GivenUp]:
        overdue = self.engine.rows(sql.OVERDUE, {"limit": limit, "now": now})
        given_up = [given_up_from(row, now) for row in overdue]
        rows = [{"id": one.task_id, "reason": one.reason} for one in given_up]
        moves.make(self.engine, moves.GIVE_UP, rows, who=self._who, now=now)
        return given_up

    def next_failure(self) -> StoreTime | None:
        return self._first_time(sql.NEXT_FAILURE)

    def ready_queues(
        self, *, after: str, limit: int, node: str = "", session: str = ""
    ) -> list[str]:
        values = {"after": after, "limit": limit, "node": node, "session": session}
        rows = self.engine.rows(sql.READY_QUEUES, values)
        return [queue for (queue,) in rows]

    def claim(
        self,
        queue: str,
        *,
        limit: int,
        node: str,
        output_dir: str,
        session: str = "",
        labels: Mapping[str, str] = NO_LABELS,
        limits: Mapping[str, Rule] = NO_RULES,
        lane: str = "",
        until: StoreTime | None = None,
        now: StoreTime,
    ) -> Claims:
        if self._histories.postponed(now) is not None:
            return Claims()
        changed = partial(self._limit_changed, now)
        gate = claims.Gate(self.engine, limits, who=self._who, changed=changed, now=now)
        if (own := of_queue(queue)) in limits:
            limit = gate.lock_room([own]).most({own: 1}, limit)
        made = Claims()
        if limit:
            values = {"queue": queue, "limit": limit, "node": node, "session": session}
            search = claims.Search(self.engine, values, labels, lane, lock_room=gate.lock_room)
            ready = claims.claimable(self.engine, search, who=self._who, now=now)
            tasks = self._histories.claimable(ready or (), now)
            gate.record_starts(tasks)
            made = claims.claim(
                self.engine,
                tasks,
                owner=node,
                output_dir=output_dir,
                until=until,
                fences_after=self.history.fences_after,
                now=now,
            )
            gate.begin_probes(made)
            made.again, made.lane, made.busy = ready is None, search.last, search.is_less
        made.busy, made.opens_at = made.busy or gate.busy, gate.opens_at
        return made

    def record_results(self, results: Mapping[str, int], *, now: StoreTime) -> None:
        from dispatcher.store import breakers  # noqa: PLC0415 - few queues have any

        breakers.record(self.engine, results, now)

    def add_limits(self, names: Iterable[str]) -> None:
        # Of daemons that start at once, all but the first wait for a commit on the disk.
        if self.engine.dialect.waits:
            self.engine.rows(self.engine.dialect.waits)
        from dispatcher.store import limits  # noqa: PLC0415 - few configurations have any

        limits.add(self.engine, names)

    def take_runs(self, uids: Collection[RunUid]) -> dict[RunUid, OpenRun]:
        values = {"given": rows_of({"uid": uid} for uid in uids)}
        return {run.run_uid: run for run in self._open_runs(sql.TAKE_RUNS, values)}

    def record_started(self, starts: Sequence[StartedRun], *, now: StoreTime) -> int:
        rows = [{"uid": one.uid, "pid": one.pid, "started_at": one.at} for one in starts]
        return self.engine.change(sql.RECORD_STARTED, {"given": rows_of(rows), "now": now})

    def record_leader_exits(self, exits: Mapping[RunUid, Exit], *, now: StoreTime) -> int:
        rows = [
            {"uid": uid, "exit_code": one.exit_code, "signal": one.signal}
            for uid, one in exits.items()
        ]
        return self.engine.change(sql.RECORD_LEADER_EXITS, {"given": rows_of(rows)})

    def renew(self, node: str, *, but: Collection[RunUid] = (), now: StoreTime) -> int:
        return self._change_but(sql.RENEW, but, {"node": node, "now": now})

    def expired(self, node: str, *, limit: int, now: StoreTime) -> list[OpenRun]:
        return self._open_runs(sql.EXPIRED, {"node": node, "limit": limit, "now": now})

    def next_expiry(self, node: str) -> StoreTime | None:
        return self._first_time(sql.NEXT_EXPIRY, {"node": node})

    def open_runs(self, node: str) -> list[OpenRun]:
        return self._open_runs(sql.OPEN_RUNS_HERE, {"node": node})

    def endings(self, node: str, *, among: Container[RunUid] | None = None) -> list[BegunEnding]:
        rows = self.engine.rows(sql.ENDINGS, {"node": node})
        return [ending_from(row) for row in rows if among is None or row[0] in among]

    def begin_endings(self, endings: Sequence[BegunEnding], *, now: StoreTime) -> int:
        rows = [
            {
                "uid": one.run_uid,
                "ending": one.ending and one.ending.value,
                "ending_reason": one.ending_reason,
            }
            for one in endings
        ]
        begun = self.engine.change(sql.BEGIN_ENDINGS, {"given": rows_of(rows)})
        self._announce(begun > 0)
        return begun

    def begin_ending(self, uid: RunUid, ending: Outcome, reason: str, *, now: StoreTime) -> bool:
        return self.begin_endings([BegunEnding(uid, ending, reason)], now=now) > 0

    def record_unkillable(self, uid: RunUid, reason: str, *, now: StoreTime) -> None:
        from dispatcher.store.statements import hooks  # noqa: PLC0415 - hardly ever needed

        values = {"uid": uid, "reason": reason, "who": self._who, "now": now}
        self._write_event(hooks.UNKILLABLE, values)

    def record_node_paused(self, node: str, reason: str, *, now: StoreTime) -> None:
        self._record(EventKind.NODE_PAUSED, now=now, subject=node, reason=reason)

    def settle(self, settlements: Sequence[Settlement], *, now: StoreTime) -> int:
        # A task that moves is one whose run is open: only then it names the run.
        rows = [*map(moving_on, settlements)]
        moves.make_later(self.engine, moves.SETTLE, rows, who=self._who, now=now)
        closed = self.engine.change(sql.CLOSE, {"given": rows_of(map(closing, settlements))})
        if closed:
            for one in settlements:
                self._announce_task(one.state, one.run_at)
                self._announce(one.awaited)
        return closed

    def confirm(
        self, node: str, until: StoreTime | None, *, but: Collection[RunUid] = ()
    ) -> set[RunUid]:
        self._change_but(sql.CONFIRM, but, {"node": node, "until": until})
        return {RunUid(uid) for (uid,) in self.engine.rows(sql.CONFIRMED, {"node": node})}

    def abandoned(self, *, limit: int, expired: bool = True, now: StoreTime) -> list[OpenRun]:
        if not expired:
            return self._open_runs(sql.LOCAL_OVER, {"limit": limit})
        return self._open_runs(sql.ABANDONED, {"limit": limit, "now": now})

    def stranded(
        self, node: str, *, known: Collection[RunUid] = (), limit: int = 100, now: StoreTime
    ) -> list[OpenRun]:
        values = {"node": node, "alone": not self.engine.dialect.shared, "now": now}
        values["given"] = rows_of({"uid": uid} for uid in known)
        again = self._open_runs(sql.STRANDED_AMONG, values) if known else []
        return again + self._open_runs(sql.STRANDED, {**values, "limit": limit})

    def passed_over(self, node: str, runs: Collection[RunUid], *, now: StoreTime) -> set[RunUid]:
        if not runs or not self.engine.dialect.shared:
            return set()
        rows = self.engine.rows(sql.TAKEABLE_AMONG, self._takeable(node, runs, now))
        return {RunUid(uid) for (uid,) in rows}

    def passes_over(self, node: str, *, but: Collection[RunUid] = (), now: StoreTime) -> bool:
        if not self.engine.dialect.shared:
            return False
        ((found,),) = self.engine.rows(sql.ARE_TAKEABLE, self._takeable(node, but, now))
        return bool(found)

    def _takeable(self, node: str, runs: Collection[RunUid], now: StoreTime) -> Values:
        given = rows_of({"uid": uid} for uid in runs)
        return {"given": given, "node": node, "alone": False, "now": now}

    def next_takeover(self, node: str, *, now: StoreTime) -> StoreTime | None:
        return self._first_time(sql.NEXT_TAKEOVER, {"node": node, "now": now})

    def next_work(
        self,
        node: str,
        session: str = "",
        *,
        labels: Mapping[str, str] = NO_LABELS,
        now: StoreTime,
    ) -> StoreTime | None:
        values = {"node": node, "session": session, "alone": not self.engine.dialect.shared}
        values |= {"now": now, "silent": now - CONTINUE_AFTER, "gone": now - GONE_AFTER}
        values |= {"after": "", "limit": 1}
        ((is_open, waits, *found),) = self.engine.rows(NEXT_WORK, values)
        if waits or is_open or (is_open is not None and self._is_any_ready(labels)):
            return now
        return min((time for time in map(time_from, found) if time is not None), default=None)

    def has_unfinished(
        self, *, but: Iterable[str] = (), labels: Mapping[str, str] | None = None
    ) -> bool:
        from dispatcher.store import lanes  # noqa: PLC0415 - for daemons that run until idle

        but = [*but]
        left_out = "".join(f" {queue} " for queue in but)
        ((unfinished,),) = self.engine.rows(sql.HAS_UNFINISHED, {"but": left_out})
        return (
            bool(unfinished)
            or lanes.is_any_allowed(self.engine, labels, but)
            or bulk_parts.is_coming(self.engine)
        )

    def take_node(self, node: Node, *, was: Node | None) -> bool:
        expected = {
            "was": None if was is None else was.session,
            "was_seen_at": None if was is None else was.seen_at,
        }
        return self.engine.change(nodes_sql.TAKE, {**node_parameters(node), **expected}) > 0

    def record_node(self, node: Node) -> bool:
        values = {**node_parameters(node), "timeline": node.timeline}
        return self.engine.change(nodes_sql.RECORD, values) > 0

    def leave_node(self, node_id: str, session: str) -> None:
        self.engine.change(nodes_sql.LEAVE, {"node": node_id, "session": session})

    def record_reconciled(self, node: str) -> None:
        values = {"node": node, "timeline": self.history.timeline}
        self.engine.change(history_sql.RECONCILED, values)

    def postponed(self, *, now: StoreTime) -> Postponed | None:
        return self._histories.postponed(now)

    def postpone_takeovers(self, *, now: StoreTime) -> None:
        self._histories.postpone_takeovers(now)

    def _first_time(self, statement: str, values: Values = NONE) -> StoreTime | None:
        rows = self.engine.rows(statement, values)
        return time_from(rows[0][0]) if rows else None
