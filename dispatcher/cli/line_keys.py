"""The keys of the lines of a submit: new work has a new one, and a line comes after its parents."""

from msgspec.structs import replace

from dispatcher.dependency import TaskKey
from dispatcher.errors import InvalidTask
from dispatcher.new_task import NewTask

#: Keys of lines remembered at most; bounds memory.
_MOST_KEYS = 20_000


class LineKeys:
    """The keys of the lines so far."""

    def __init__(self) -> None:
        self._lines: dict[TaskKey, tuple[int, int, int]] = {}
        self._queues: dict[str, set[str]] = {}
        """The queues of lines with a key."""
        self._sought: dict[TaskKey, int] = {}
        """The first line that waits for a task which is in no line before."""

    def check(self, number: int, task: NewTask) -> NewTask:
        """Refuse a key that an earlier line has for other work, or waits for.

        Returns the task with its parents in the queues of their lines. Raises `InvalidTask`.
        """
        if task.after or task.after_any:
            task = self._with_parents(number, task)
        if task.key is None:
            return task
        own = (number, hash(task.command), hash(task.payload))
        key = TaskKey(task.queue, task.key)
        if (waits := self._sought.get(key)) is not None:
            raise InvalidTask(
                f"line {waits} waits for it; a line comes after those for which it waits"
            )
        first = self._lines.get(key)
        if first is None:
            if len(self._lines) < _MOST_KEYS:
                self._lines[key] = own
                self._queues.setdefault(task.key, set()).add(task.queue)
            return task
        same = {"command": own[1] == first[1], "payload": own[2] == first[2]}
        if others := [name for name in same if not same[name]]:
            other = " and ".join(others)
            problem = f"has the key of line {first[0]}, with another {other}"
            raise InvalidTask(f"{problem}; new work needs a new key")
        return task

    def _with_parents(self, number: int, task: NewTask) -> NewTask:
        def found(parent: int | TaskKey) -> int | TaskKey:
            if isinstance(parent, int) or parent in self._lines:
                return parent
            queues = self._queues.get(parent.key, set())
            if len(queues) == 1:
                return TaskKey(next(iter(queues)), parent.key)
            if len(queues) > 1:
                where = ", ".join(sorted(queues))
                raise InvalidTask(
                    f"after: key {parent.key!r} is of lines in several queues ({where}); give"
                    " each its own"
                )
            if len(self._lines) < _MOST_KEYS:  # later lines may have it and not be remembered
                self._sought.setdefault(parent, number)
            return parent

        after, after_any = map(found, task.after), map(found, task.after_any)
        return replace(task, after=tuple(after), after_any=tuple(after_any))
