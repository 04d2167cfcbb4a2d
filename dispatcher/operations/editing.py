"""Edits of tasks that do not run: what was given at the submit may be changed until the claim."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from msgspec import Struct
from msgspec.structs import replace

from dispatcher import commits, submission, task_checks
from dispatcher.config.config import Config
from dispatcher.config.limits import LONGEST
from dispatcher.errors import InvalidTask
from dispatcher.model import FINISHED, Liveness, Task, TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.operations.batches import in_batches
from dispatcher.operations.local_claims import settle_all_abandoned
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.api import Store
from dispatcher.times import StoreTime, WallTime
from dispatcher.wire import KillMode

#: States of tasks that can be edited: they wait, or may be retried.
EDITABLE = frozenset(TaskState) - {TaskState.RUNNING, TaskState.SUCCEEDED}

#: Edits whose pairs are set or removed one by one.
_PAIRS = frozenset({"env", "labels", "requires"})

#: Milliseconds.
_MINUTE = 60_000

#: States of tasks that start at a time of their own, and of those that may have to wait for it.
_DUE = frozenset({TaskState.SCHEDULED, TaskState.READY})
_DELAYED = frozenset({TaskState.SCHEDULED, TaskState.WAITING})


class TaskEdits(TypedDict, total=False):
    """What to change of a task; what is left out stays."""

    command: Sequence[str]
    queue: str
    priority: int
    max_attempts: int
    delay_ms: int
    """From now; 0: it is ready at once."""
    start_at: WallTime
    """A date, in the place of `delay_ms`; one that is over: it is ready at once."""
    cwd: str
    env: Mapping[str, str | None]
    """Variables to set; None removes one. Others stay."""
    labels: Mapping[str, str | None]
    """The same of labels."""
    requires: Mapping[str, str | None]
    """The same of the labels that a node must have."""
    lease_ttl_ms: int
    run_timeout_ms: int | None
    """None: no longer any; so with all that follow."""
    stall_timeout_ms: int | None
    start_timeout_ms: int | None
    queue_timeout_ms: int | None
    total_timeout_ms: int | None
    kill_signal: int | str | None
    kill_mode: KillMode | None
    kill_grace_ms: int | None
    """None: as configured now; so with all that follow."""
    backoff_min_ms: int | None
    backoff_max_ms: int | None
    cooldown_ms: int | None
    max_deferrals: int | None
    max_orphans: int | None


#: Fields of a submission that a task keeps as they are.
_KEPT = {*NewTask.__struct_fields__} & {*Task.__struct_fields__}


class Edited(Struct, frozen=True):
    """What became of a request to edit a task."""

    task_id: int
    was: TaskState | None
    """Its state before; None: the task does not exist."""
    refused: str | None = None
    """Why this task cannot have the new values."""

    @property
    def done(self) -> bool:
        return self.was in EDITABLE and self.refused is None


def edit(store: Store, config: Config, task_id: int, edits: TaskEdits) -> TaskState | None:
    """Change a task that does not run: see `Client.edit`."""
    remedy = f"see `dispatcher show {task_id}`"
    do = _writer(store, config, [task_id], _typed(edits), None)
    (answer,) = commits.change(store, do, remedy=remedy)
    if answer.refused is not None:
        raise InvalidTask(answer.refused)
    return answer.was


def edit_each(
    store: Store,
    config: Config,
    task_ids: Sequence[int],
    edits: TaskEdits,
    *,
    wanted: TaskFilter | None = None,
) -> Iterator[list[Edited]]:
    """Change tasks, some in one transaction; yield what became of them: see `in_batches`.

    Tasks that do not match `wanted` any more are left alone, and left out of the answers. Raises
    `InvalidTask` for what no task may have.
    """
    given = _typed(edits)
    return in_batches(
        store, config, task_ids, lambda some: _writer(store, config, some, given, wanted)
    )


def _writer(
    store: Store,
    config: Config,
    task_ids: Sequence[int],
    given: TaskEdits,
    wanted: TaskFilter | None,
) -> Callable[[StoreTime], list[Edited]]:
    """Return what changes some tasks in a transaction; repeated, it returns the first answers."""

    def write(now: StoreTime) -> list[Edited]:
        store.lock_for_edit(task_ids, given.get("queue"))
        store.watch_clock()
        settle_all_abandoned(store, now)
        meant = task_ids
        if wanted is not None:
            meant = [one.id for one in store.matching_among(task_ids, wanted)]
        edits = _with_delay(store, given, now)
        return [_changed(store, config, task_id, edits, now) for task_id in meant]

    return commits.first_answer(write)


def _with_delay(store: Store, edits: TaskEdits, now: StoreTime) -> TaskEdits:
    """Return edits with a delay in the place of a date."""
    if "start_at" not in edits:
        return edits
    start_at = edits["start_at"]
    edits = {**edits, "delay_ms": max(0, start_at - store.calendar().date(now))}
    del edits["start_at"]
    return edits


def _changed(
    store: Store, config: Config, task_id: int, given: TaskEdits, now: StoreTime
) -> Edited:
    """Change a task in the transaction that reads it."""
    task = store.task(task_id, payload=False)
    if task is None or task.state not in EDITABLE:
        return Edited(task_id, None if task is None else task.state)
    try:
        after = edited(config, task, given, now)
        if "env" in given:
            _check_size(store, after)
    except InvalidTask as error:
        return Edited(task_id, task.state, str(error))
    refused = None if store.edit(task, after, now=now) else _why_not(task, given.get("queue"))
    return Edited(task_id, task.state, refused)


def _why_not(task: Task, queue: str | None) -> str:
    """Return why the store wrote nothing."""
    if queue is None or task.key is None:
        return f"its row cannot be changed: {task.reason}"
    taken = f"queue: a task with the key {task.key!r} is in {queue!r} already"
    return f"{taken}; leave this one in its queue, or cancel it"


def edited(config: Config, task: Task, edits: TaskEdits, now: StoreTime) -> Task:
    """Return a task with the edits. Raises `InvalidTask` for what no task in its state may have."""
    if "command" in edits:
        _check_command(config, task, edits["command"])
    changes: dict[str, Any] = {**edits}
    delay_ms = changes.pop("delay_ms", None)
    for name in changes.keys() & _PAIRS:
        changes[name] = _without_none({**getattr(task, name), **changes[name]})
    fixed = {name: changes[name] for name in changes.keys() & submission.FIXED.keys()}
    changes |= submission.fixed(config, fixed)
    submitted = {name: getattr(task, name) for name in _KEPT}
    wanted = task_checks.checked(NewTask(**{**submitted, **changes}))
    if "max_attempts" in edits:
        _check_attempts(task, wanted.max_attempts)
    after = {name: getattr(wanted, name) for name in changes.keys() & _KEPT}
    if delay_ms is not None:
        after |= _delayed(task, delay_ms, now)
    result = replace(task, **after)
    if edits.keys() & {"delay_ms", "total_timeout_ms"}:
        _check_total(result, now)
    return result


def _typed(edits: TaskEdits) -> TaskEdits:
    """Return edits whose values some task may have, with their types. Raises `InvalidTask`."""
    if unknown := edits.keys() - TaskEdits.__annotations__.keys():
        raise TypeError(f"no edit of a task: {', '.join(sorted(unknown))}")
    typed: TaskEdits = task_checks.typed(edits, TaskEdits)
    values: dict[str, Any] = {name: value for name, value in typed.items() if value is not None}
    for name in values.keys() & _PAIRS:
        values[name] = _without_none(values[name])
    if (signal := values.get("kill_signal")) is not None:
        typed["kill_signal"] = values["kill_signal"] = task_checks.signal_number(signal)
    if (delay_ms := values.pop("delay_ms", None)) is not None:  # it is checked with its task's time
        task_checks.check_number("delay", delay_ms, Milliseconds(0), LONGEST)
    task_checks.check_start(values.pop("start_at", None))
    task_checks.checked(NewTask(**{**_ANY, **values}))
    return typed


#: A task that may have any time-out, and any bound of its back-off.
_ANY: Mapping[str, Any] = {
    "command": ("true",),
    "max_attempts": 1,
    "lease_ttl_ms": LONGEST,
    "liveness": Liveness.WORKER,
    "backoff_min_ms": 0,
    "backoff_max_ms": LONGEST,
}


def _without_none(given: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


def _check_command(config: Config, task: Task, command: Sequence[str]) -> None:
    if task.profile is not None:
        problem = f"profile {task.profile!r} brings its own"
        raise InvalidTask(f"command: {problem}; cancel the task, and submit another")
    if not config.defaults.allow_commands:
        raise InvalidTask("command: only profiles may be run here; leave the command as it is")
    task_checks.refuse_command_line(command, task.cwd or "/", task.env)


def _check_attempts(task: Task, wanted: int) -> None:
    used = task.attempts_used
    least = used + 1 if task.state in _DUE else used
    if wanted < least:
        remedy = f"give {least} or more, or cancel the task"
        raise InvalidTask(f"max_attempts: {used} of them are used already; {remedy}")


def _delayed(task: Task, delay_ms: int, now: StoreTime) -> Mapping[str, object]:
    """Return state, time and reason of a task that starts after a delay."""
    if task.state is TaskState.WAITING:
        return {"run_at": StoreTime(now + delay_ms)}
    if task.state not in _DUE:
        verb = "release" if task.state is TaskState.HELD else "retry"
        remedy = f"`dispatcher {verb} {task.id}` makes it ready"
        raise InvalidTask(f"delay: a {task.state} task does not start; {remedy}")
    if delay_ms:
        state, reason = TaskState.SCHEDULED, "delayed by an operator"
    else:
        state, reason = TaskState.READY, "its delay was ended by an operator"
    if state is task.state is TaskState.READY:
        return {}
    return {"state": state, "reason": reason, "run_at": StoreTime(now + delay_ms)}


def _check_total(after: Task, now: StoreTime) -> None:
    """Raise `InvalidTask` for a task whose total time-out is over before it can start."""
    total_ms = after.total_timeout_ms
    if total_ms is None or after.state in FINISHED:
        return
    begin, since = "its submit", after.created_at
    if after.retried_at is not None:
        begin, since = "its retry", after.retried_at
    is_delayed = after.state in _DELAYED and after.run_at > now
    needed_ms = (after.run_at if is_delayed else now) - since
    if total_ms <= needed_ms:
        over = "before its delay" if is_delayed else "already"
        other = "a shorter delay" if is_delayed else "remove it"
        enough = _rounded(needed_ms if is_delayed else needed_ms + _MINUTE)
        raise InvalidTask(
            f"total_timeout: {Milliseconds(total_ms)} from {begin} are over {over};"
            f" give more than {enough}, or {other}"
        )


def _rounded(duration_ms: int) -> Milliseconds:
    """Return a duration in whole minutes, rounded up, so that people can read and type it."""
    return Milliseconds(-(-duration_ms // _MINUTE) * _MINUTE)


def _check_size(store: Store, after: Task) -> None:
    """Raise `InvalidTask` for variables that are too large with those of the submitter."""
    if after.environment_id is None:
        return
    size = task_checks.size_of_variables(after.env) + store.environment_size(after.environment_id)
    if size > task_checks.MAX_ENVIRONMENT:
        most = task_checks.MAX_ENVIRONMENT
        raise InvalidTask(
            f"env: with its submitter's environment more than {most} bytes in all; give less, or"
            " name a file that holds it"
        )
