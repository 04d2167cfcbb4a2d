"""What waits for people, and their answers."""

from msgspec import Struct

from dispatcher import commits
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.execution import Rows
from dispatcher.handover import Handover, answered
from dispatcher.model import Intent, Task, TaskState
from dispatcher.operations import intents
from dispatcher.outlook import IntentResult
from dispatcher.store.api import ReaderStore, Store
from dispatcher.times import StoreTime
from dispatcher.worker_api import MAX_ANSWER, MAX_ANSWERED

#: Queues whose held tasks are looked for.
_MOST_QUEUES = 1000


class Waiting(Struct, frozen=True, kw_only=True):
    """A held task, with what its last run left."""

    task: Task
    handover: Handover | None


def inbox(store: ReaderStore, *, queue: str | None, limit: int) -> list[Waiting]:
    """Return at most `limit` held tasks, those with a question first, then the newest."""
    with store.snapshot():
        queues = [
            name
            for name, states in store.counts().items()
            if states.get(TaskState.HELD) and queue in (None, name)
        ]
        held = store.asking(queue=queue, limit=limit)
        asking = {task.id for task in held}
        held += [
            task
            for name in queues[:_MOST_QUEUES]
            for task in store.foremost(TaskState.HELD, queue=name, limit=limit)
            if task.id not in asking
        ]
        left = store.handovers([task.id for task in held])
    found = [Waiting(task=task, handover=left.get(task.id)) for task in held]
    found.sort(key=lambda one: (question_of(one) is None, -one.task.id))
    return found[:limit]


def question_of(one: Waiting) -> str | None:
    """Return the question of a task that has no answer yet."""
    left = one.handover
    return None if left is None or left.answer is not None else left.question


def _check_variable(store: Store, task_id: int, text: str) -> None:
    """Refuse an answer with which no run could start."""
    left = store.handovers([task_id]).get(task_id)
    asked = (None, None) if left is None else (left.question, left.kind)
    variable = answered(*asked, text, None)
    if (size := len(variable.encode())) > MAX_ANSWERED:
        raise DispatcherError(
            f"the answer: with its question it is {size} bytes of JSON, more than {MAX_ANSWERED};"
            " shorten it, or name a file that holds it"
        )


def answer(store: Store, task_id: int, text: str) -> IntentResult:
    """Keep a person's answer for the next run of a held task, and release the task.

    Raises `NoTask`, and `DispatcherError` for a task that is not held nor will be, and for an
    answer that is empty or too long.
    """
    if not text.strip():
        raise DispatcherError("the answer is empty; dispatcher release lets the task run without")
    if (size := len(text.encode())) > MAX_ANSWER:
        raise DispatcherError(f"the answer: {size} bytes are more than {MAX_ANSWER}; shorten it")

    def write(now: StoreTime) -> IntentResult:
        store.lock_rows(Rows(tasks=[task_id]))
        task = store.task(task_id, payload=False)
        if task is None:
            raise NoTask(task_id)
        ahead = intents.outlook_of(store, task_id, now)
        state = task.state if ahead is None else ahead.state
        if state is not TaskState.HELD:
            raise DispatcherError(f"task {task_id} is {task.state}; only held ones are answered")
        _check_variable(store, task_id, text)
        store.answer(task_id, text, now=now)
        return intents.written(store, task_id, Intent.RELEASE, now)

    return commits.change(store, write, remedy="answer it again")
