"""The store for submitters: a single task at once, a bulk submit in parts until all are there."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from dispatcher.complaints import UNREADABLE
from dispatcher.dependency import TaskKey
from dispatcher.environment import Environment
from dispatcher.events import UNKNOWN
from dispatcher.model import Submitted
from dispatcher.new_task import NO_WAIT, NewTask, Wait
from dispatcher.store import moves
from dispatcher.store.bulk_parts import encoded, encoded_part, left, shortened
from dispatcher.store.parameters import command_text, new_task_parameters
from dispatcher.store.statements import events as events_sql
from dispatcher.store.statements import locks as locks_sql
from dispatcher.store.statements import submitters as sql
from dispatcher.store.statements.given import rows_of
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

    def missing_parents(self, tasks: Sequence[NewTask]) -> list[int | TaskKey]:
        from dispatcher.store import parents  # noqa: PLC0415 - few tasks have any

        return parents.of_tasks(self.engine, tasks, locks=False).missing(tasks)

    def submit(self, tasks: Sequence[NewTask], *, now: StoreTime) -> list[Submitted]:
        return self._submit(tasks, self._who, now)

    def _submit_for_hooks(self, event_ids: Sequence[int], now: StoreTime) -> None:
        from dispatcher.store import hooking  # noqa: PLC0415 - few configurations have hooks

        found = hooking.happened(self.engine, event_ids)
        if self._hooks is not None and found:
            tasks = self._hooks.tasks(found, self._clock.calendar(self.engine))
            self._made(tasks, [NO_WAIT] * len(tasks), self._who, now)

    def _submit(self, tasks: Sequence[NewTask], who: str, now: StoreTime) -> list[Submitted]:
        if not any(task.after or task.after_any for task in tasks):
            return self._made(tasks, [NO_WAIT] * len(tasks), who, now)
        from dispatcher.store import parents  # noqa: PLC0415 - few tasks have any

        known = parents.of_tasks(self.engine, tasks)
        missing = {*known.missing(tasks)}
        waits = [parents.wait_of(task, known, missing) for task in tasks]
        answers = self._made(tasks, waits, who, now)
        made = {one.task_id: task for task, one in zip(tasks, answers, strict=True) if one.created}
        late = parents.link(self.engine, made, known, missing)
        # One that is cancelled at once has finished, and others of the submit may wait for it.
        self._announce(late or any(one.broken is not None for one in waits))
        return answers

    def _made(
        self, tasks: Sequence[NewTask], waits: Sequence[Wait], who: str, now: StoreTime
    ) -> list[Submitted]:
        self._lock_keys(tasks)
        ids = self._environment_ids(
            dict.fromkeys(one for task in tasks if (one := task.environment))
        )
        submitted: dict[int, Submitted] = {}
        left = list(enumerate(tasks))
        while left:
            rows = [self._row(task, waits[place], ids, now) for place, task in left]
            submitted |= self._create(left, rows, who, now)
            left = [one for one in left if one[0] not in submitted]
            # A task whose key was in use may have been deleted since.
            submitted |= self._existing(left)
            left = [one for one in left if one[0] not in submitted]
        answers = [submitted[place] for place in range(len(tasks))]
        pairs = zip(tasks, answers, strict=True)
        self._remove_unused({task.environment for task, one in pairs if not one.created}, ids)
        return answers

    def _lock_keys(self, tasks: Sequence[NewTask]) -> None:
        """Wait for all others that add or delete tasks with these keys."""
        keys = [{"queue": task.queue, "key": task.key} for task in tasks if task.key]
        if keys and self.engine.dialect.shared:
            self.engine.rows(locks_sql.KEYS, {"given": rows_of(keys)})

    def _create(
        self,
        tasks: Sequence[tuple[int, NewTask]],
        rows: Sequence[dict[str, object]],
        who: str,
        now: StoreTime,
    ) -> dict[int, Submitted]:
        """Create those tasks, given with their places, whose keys are free."""
        columns = tuple(sorted({name for row in rows for name in row}))
        made = self.engine.rows(sql.submit(columns), {"given": rows_of(rows)})
        without_key = (task_id for task_id, _, key in made if key is None)
        with_key = {(queue, key): task_id for task_id, queue, key in made if key is not None}
        created = {
            place: with_key.pop((task.queue, task.key), 0) if task.key else next(without_key)
            for place, task in tasks
        }
        payloads = [
            {"task_id": created[place], "payload": task.payload}
            for place, task in tasks
            if task.payload is not None and created[place]
        ]
        if payloads:
            self.engine.change(sql.SUBMIT_PAYLOADS, {"given": rows_of(payloads)})
        new = [
            {"task_id": created[place], "state": row["state"], "run_at": row["run_at"]}
            for (place, _), row in zip(tasks, rows, strict=True)
            if created[place]
        ]
        for row in new:
            self._announce_task(row["state"], row.pop("run_at"))
        if new:
            values = {"given": rows_of(new), "who": who, "now": now}
            states = {row["state"] for row in new}
            moves.record(self.engine, events_sql.SUBMITTED, values, after=states)
        return {
            place: Submitted(task_id, created=True) for place, task_id in created.items() if task_id
        }

    def _row(
        self, task: NewTask, wait: Wait, ids: Mapping[Environment, int], now: StoreTime
    ) -> dict[str, object]:
        row = new_task_parameters(task, now, self._delay_ms(task, now), wait)
        if task.environment is not None:
            row["environment_id"] = ids[task.environment]
        return row

    def _delay_ms(self, task: NewTask, now: StoreTime) -> int:
        """Return how long a task must wait: the later of its delay and its date counts."""
        if task.start_at is None:
            return task.delay_ms
        ahead_ms = self._clock.calendar(self.engine).ahead_ms
        return max(task.delay_ms, task.start_at - ahead_ms - now)

    def _existing(self, tasks: Sequence[tuple[int, NewTask]]) -> dict[int, Submitted]:
        """Return the tasks that have the keys of these."""
        if not tasks:
            return {}
        wanted = dict(tasks)
        rows = [{"place": place, "queue": task.queue, "key": task.key} for place, task in tasks]
        found = {}
        for place, task_id, command, payload in self.engine.rows(
            sql.TASKS_WITH_KEYS, {"given": rows_of(rows)}
        ):
            task = wanted[place]
            same = {"command": command_text(task) == command, "payload": task.payload == payload}
            differs = tuple(name for name in same if not same[name])
            found[place] = Submitted(task_id, created=False, differs=differs)
        return found

    def _environment_ids(self, wanted: Collection[Environment]) -> dict[Environment, int]:
        """Return the ids of environments; store those that have no equal."""
        ids: dict[Environment, int] = {}
        for statement in (sql.ENVIRONMENT_IDS, sql.ADD_ENVIRONMENTS):
            left = {(one.checksum, one.text): one for one in wanted if one not in ids}
            if left:
                rows = [{"checksum": number, "variables": text} for number, text in left]
                for env_id, number, text in self.engine.rows(statement, {"given": rows_of(rows)}):
                    ids.setdefault(left[number, text], env_id)
        return ids

    def _remove_unused(
        self, environments: Collection[Environment | None], ids: Mapping[Environment, int]
    ) -> None:
        if rows := [{"id": ids[one]} for one in environments if one is not None]:
            self.engine.change(sql.REMOVE_UNUSED_ENVIRONMENTS, {"given": rows_of(rows)})

    def stage(self, uid: str, part: int, tasks: Sequence[NewTask], *, now: StoreTime) -> bool:
        if part == 0:
            self.engine.change(sql.BEGIN_BULK, {"uid": uid, "who": self._who, "now": now})
        if not self.engine.change(sql.SEE_BULK, {"uid": uid, "now": now}):
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
        self.engine.rows(sql.LOCK_BULK, {"uid": uid})  # or it might be accepted meanwhile
        if self.engine.rows(sql.NEXT_PART, {"uid": uid, "after": -1}):
            return False
        self.engine.change(sql.DROP_BULK, {"uid": uid})  # its client may not accept the rest
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
        for part, tasks, damage in left(self.engine, uid):
            if damage is None:
                # Of one that a dispatcher without events began, it is unknown.
                ((who,),) = self.engine.rows(sql.SUBMITTER, {"uid": uid})
                made = self._submit(tasks, who or UNKNOWN, now)
                text = encoded([(one.task_id, one.created, one.differs) for one in made]).decode()
                values = {"uid": uid, "part": part, "submitted": text}
                self.engine.change(sql.ADMITTED, values)
                return True
        return False
