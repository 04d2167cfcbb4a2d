"""The store for submitters: a single task at once, a bulk submit in parts until all are there."""

from collections.abc import Sequence
from typing import Final

import msgspec

from dispatcher.complaints import UNREADABLE
from dispatcher.environment import Environment
from dispatcher.model import Submitted
from dispatcher.new_task import NewTask
from dispatcher.store.bulk_parts import encoded, encoded_part, left, shortened
from dispatcher.store.parameters import new_task_parameters
from dispatcher.store.statements import submitters as sql
from dispatcher.store.transactions import SqlTransactions
from dispatcher.times import StoreTime

#: Milliseconds of silence after which others admit a client's accepted parts, and after which its
#: records and whatever it never accepted are removed: the client is dead, or stopped for long.
CONTINUE_AFTER: Final = 10_000
GONE_AFTER: Final = 3_600_000

#: Parts removed in one step.
REMOVED: Final = 20

_submitted_from = msgspec.json.Decoder(list[tuple[int, bool, tuple[str, ...]]]).decode


def size_of(task: NewTask) -> int:
    """Return the bytes that a task takes in its part, without its environment.

    Raises `StoreRefused` like `stage`.
    """
    values = shortened(task)
    values.pop("environment", None)
    return len(encoded(values))


class SqlSubmitter(SqlTransactions):
    """`SubmitterStore` on an engine."""

    def submit(self, task: NewTask, *, now: StoreTime) -> Submitted:
        return self._submit(task, now, {})

    def _submit(self, task: NewTask, now: StoreTime, ids: dict[Environment, int]) -> Submitted:
        """Do the same; `ids` holds the environments that this transaction looked up."""
        new = new_task_parameters(task, now)
        if task.environment is not None:
            new["environment_id"] = self._environment_id(task.environment, ids)
        for (task_id,) in self.engine.rows(sql.submit(tuple(new)), new):
            if task.payload is not None:
                values = {"task_id": task_id, "payload": task.payload}
                self.engine.change(sql.SUBMIT_PAYLOAD, values)
            self._announce_task(new["state"], new["run_at"])
            return Submitted(task_id, created=True)
        if task.environment is not None:
            values = {"id": ids.pop(task.environment)}
            self.engine.change(sql.REMOVE_UNUSED_ENVIRONMENT, values)
        ((task_id, command, payload),) = self.engine.rows(
            sql.TASK_WITH_KEY, {"queue": task.queue, "key": task.key}
        )
        same = {"command": new["command"] == command, "payload": task.payload == payload}
        differs = tuple(name for name in same if not same[name])
        return Submitted(task_id, created=False, differs=differs)

    def _environment_id(self, environment: Environment, ids: dict[Environment, int]) -> int:
        """Return the id of an environment; store it if there is no equal one."""
        if (known := ids.get(environment)) is None:
            values = {"checksum": environment.checksum, "variables": environment.text}
            rows = self.engine.rows(sql.ENVIRONMENT_ID, values)
            known = rows[0][0] if rows else self.engine.insert(sql.ADD_ENVIRONMENT, values)
            ids[environment] = known
        return known

    def stage(self, uid: str, part: int, tasks: Sequence[NewTask], *, now: StoreTime) -> bool:
        if part == 0:
            self.engine.change(sql.BEGIN_BULK, {"uid": uid, "now": now})
        elif not self.engine.change(sql.SEE_BULK, {"uid": uid, "now": now}):
            return False
        text, environments = encoded_part(tasks)
        values = {"uid": uid, "part": part, "many": len(tasks), "tasks": text}
        self.engine.change(sql.STAGE, {**values, "environments": environments})
        return True

    def accept(self, uid: str, *, now: StoreTime) -> bool:
        return self.engine.change(sql.ACCEPT, {"uid": uid, "now": now}) > 0

    def accepted(self, uid: str) -> bool | None:
        rows = self.engine.rows(sql.BULK_STATE, {"uid": uid})
        return rows[0][0] == "accepted" if rows else None

    def admit(self, uid: str, *, now: StoreTime) -> bool:
        self.engine.change(sql.SEE_BULK, {"uid": uid, "now": now})
        return self._admit(uid, now)

    def submitted(self, uid: str, part: int) -> list[Submitted] | None:
        for (text,) in self.engine.rows(sql.SUBMITTED, {"uid": uid, "part": part}):
            try:
                return [Submitted(*one) for one in _submitted_from(text)]
            except (*UNREADABLE, TypeError):
                break
        return None

    def remove_parts(self, uid: str) -> bool:
        if self.engine.rows(sql.NEXT_PART, {"uid": uid, "after": -1}):
            return False
        self.engine.change(sql.DROP_BULK, {"uid": uid})  # or its client might accept the rest
        removed = self.engine.change(sql.REMOVE_PARTS, {"uid": uid, "limit": REMOVED})
        if removed < REMOVED:
            self.engine.change(sql.REMOVE_BULK, {"uid": uid})
        return removed == REMOVED

    def continue_silent(self, *, now: StoreTime) -> bool:
        silent = {"silent": now - CONTINUE_AFTER, "gone": now - GONE_AFTER}
        rows = self.engine.rows(sql.SILENT, silent)
        for uid, is_left in rows:
            if not is_left:
                self.remove_parts(uid)
            elif not self._admit(uid, now):  # the rest is damaged: back to the end of the line
                self.engine.change(sql.SEE_BULK, {"uid": uid, "now": now})
        return bool(rows)

    def _admit(self, uid: str, now: StoreTime) -> bool:
        for part, tasks, damage in left(self.engine, uid, lock=self.engine.dialect.lock_row):
            if damage is None:
                ids: dict[Environment, int] = {}
                made = [self._submit(task, now, ids) for task in tasks]
                text = encoded([(one.task_id, one.created, one.differs) for one in made]).decode()
                values = {"uid": uid, "part": part, "submitted": text}
                self.engine.change(sql.ADMITTED, values)
                return True
        return False
