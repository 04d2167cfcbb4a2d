"""The store for workers: a statement checks the lock and writes; only a refusal is looked into."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from dispatcher.events import WORKER, EventKind
from dispatcher.model import Declared, TaskState
from dispatcher.store.engine import Values
from dispatcher.store.parameters import declaration_parameters
from dispatcher.store.rows import state_from
from dispatcher.store.statements import locks as locks_sql
from dispatcher.store.statements import workers as sql
from dispatcher.store.statements.given import rows_of
from dispatcher.store.transactions import SqlTransactions
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed
from dispatcher.worker_api import WorkerError


class SqlWorker(SqlTransactions):
    """`WorkerStore` on an engine."""

    def heartbeat(self, beats: Sequence[Beat], *, now: StoreTime) -> list[Renewed | Refused]:
        answers: dict[int, Renewed | Refused] = {}
        left = dict(enumerate(beats))
        while left:  # a statement changes a row once: one beat of each task at a time
            first = {beat.task_id: place for place, beat in reversed(left.items())}
            answers |= self._renewed({place: left.pop(place) for place in first.values()}, now)
        return [answers[place] for place in range(len(beats))]

    def _renewed(self, beats: Mapping[int, Beat], now: StoreTime) -> dict[int, Renewed | Refused]:
        """Renew leases by beats of different tasks; return the answers at the beats' places."""
        rows = [
            {"task_id": one.task_id, "lock": one.lock, "progress": one.progress, "note": one.note}
            for one in beats.values()
        ]
        left = [(one.task_id, one.checkpoint) for one in beats.values() if one.checkpoint]
        expiries: dict[int, StoreTime] = dict(
            self.engine.rows(sql.HEARTBEAT, {"given": rows_of(rows), "now": now})
        )
        if kept := [(task_id, text) for task_id, text in left if task_id in expiries]:
            from dispatcher.store import handovers  # noqa: PLC0415 - few workers leave any

            handovers.keep_checkpoints(self.engine, kept, now)
        return {
            place: Renewed(expiries[one.task_id])
            if one.task_id in expiries
            else self._refusal(one.task_id, one.lock)
            for place, one in beats.items()
        }

    def note(self, note: Note, *, now: StoreTime) -> Accepted | Refused:
        values = {"task_id": note.task_id, "lock": note.lock, "note": note.note, "now": now}
        if self.engine.change(sql.NOTE, values):
            return Accepted()
        return self._refusal(note.task_id, note.lock)

    def lock_limits(self, names: Collection[str]) -> set[str]:
        from dispatcher.store import limits  # noqa: PLC0415 - few workers close any

        return limits.lock_free(self.engine, names)

    def declare(self, declaration: Declaration, *, now: StoreTime) -> Accepted | Refused:
        values = declaration_parameters(declaration, now)
        if declaration.close is not None:
            from dispatcher.store import limits  # noqa: PLC0415 - few workers close any

            if not limits.is_taken(self.engine, declaration):
                refusal = self._refusal(declaration.task_id, declaration.lock)
                return replace(refusal, error=WorkerError.NOT_TAKEN)
        if self._announce(self.engine.change(sql.DECLARE, values) > 0):
            if declaration.close is not None:
                self._close(declaration.close, declaration, now)
            if declaration.question is not None or declaration.kind is not None:
                from dispatcher.store import handovers  # noqa: PLC0415 - few workers ask

                handovers.ask(self.engine, declaration, now)
            return Accepted()
        for word, reason, delay_ms, retry, result in self.engine.rows(sql.DECLARED, values):
            before = replace(  # a question is kept once
                declaration,
                word=Declared(word),
                reason=reason,
                delay_ms=delay_ms if declaration.until is None else declaration.delay_ms,
                retry=bool(retry),
                result=result,
            )
            if before == declaration:
                return Accepted()
            refusal = self._refusal(declaration.task_id, declaration.lock)
            return replace(refusal, error=WorkerError.ALREADY_DECLARED)
        return self._refusal(declaration.task_id, declaration.lock)

    def _close(self, limit: str, declaration: Declaration, now: StoreTime) -> None:
        """Close a limit as a worker declares it: for longer, never for less, nor for no time."""
        if not declaration.delay_ms:
            return
        from dispatcher.store import limits  # noqa: PLC0415 - few workers close any

        facts = {"who": WORKER, "reason": declaration.reason or f"by task {declaration.task_id}"}
        until = StoreTime(now + declaration.delay_ms)
        if limits.close_longer(self.engine, limit, until=until, now=now, **facts):
            self._record(EventKind.LIMIT_CLOSED, now=now, subject=limit, **facts)

    def locks_of(self, uids: Iterable[RunUid]) -> dict[RunUid, tuple[int, str]]:
        values = {"given": rows_of({"uid": uid} for uid in uids)}
        return {
            uid: (task_id, lock) for uid, task_id, lock in self.engine.rows(sql.LOCKS_OF, values)
        }

    def declared(self, node: str) -> list[RunUid]:
        return [RunUid(uid) for (uid,) in self.engine.rows(sql.DECLARED_UIDS, {"node": node})]

    def renew_short(
        self, node: str, *, gap_ms: int, but: Collection[RunUid] = (), now: StoreTime
    ) -> int:
        values = {"node": node, "gap_ms": gap_ms, "now": now}
        return self._change_but(sql.RENEW_SHORT, but, values)

    def _change_but(self, statement: str, but: Collection[RunUid], values: Values) -> int:
        """Change open runs of a node, `but` these."""
        if not but:
            return self.engine.change(statement, values)
        given = rows_of({"uid": uid} for uid in but)
        return self.engine.change(locks_sql.but(statement), {**values, "given": given})

    def _refusal(self, task_id: int, lock: str) -> Refused:
        rows = self.engine.rows(sql.PRESENTED, {"task_id": task_id, "lock": lock})
        if not rows:
            return Refused(WorkerError.UNKNOWN_TASK)
        state, current_uid, presented_uid, attempt = rows[0]
        if state != TaskState.RUNNING:
            return Refused(WorkerError.NOT_RUNNING, state_from(state), attempt)
        earlier = presented_uid is not None and presented_uid != current_uid
        error = WorkerError.SUPERSEDED if earlier else WorkerError.NOT_OWNER
        return Refused(error, TaskState.RUNNING, attempt)
