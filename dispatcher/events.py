"""Events: what happened to tasks, queues and nodes, and by whom. They are no log events."""

import enum
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from msgspec import Struct

from dispatcher.execution import LOCAL
from dispatcher.model import TaskState
from dispatcher.times import StoreTime


class EventKind(enum.StrEnum):
    """What happened: a closed list, explained in docs/operations.md.

    A store that a newer dispatcher works with may hold others, which are shown as they are.
    """

    SUBMIT = "submit"
    DUE = "due"
    CLAIM = "claim"
    SETTLE = "settle"
    GIVE_UP = "give_up"
    PARENTS_DONE = "parents_done"
    PARENT_FAILED = "parent_failed"
    PARENT_RETRIED = "parent_retried"
    CANCEL = "cancel"
    HOLD = "hold"
    RETRY = "retry"
    RELEASE = "release"
    ANSWER = "answer"
    EDIT = "edit"
    PAUSE = "pause"
    RESUME = "resume"
    LIMIT_CLOSED = "limit_closed"
    LIMIT_OPENED = "limit_opened"
    NODE_DRAIN = "node_drain"
    NODE_RESUME = "node_resume"
    NODE_FORGET = "node_forget"
    NODE_PAUSED = "node_paused"
    SCHEDULE_PAUSE = "schedule_pause"
    SCHEDULE_RESUME = "schedule_resume"
    SCHEDULE_FORGET = "schedule_forget"
    WORKER_UNKILLABLE = "worker_unkillable"


class Ledger(enum.StrEnum):
    """The table in which an event is: a claim is the run that it opens."""

    EVENTS = "events"
    RUNS = "runs"


class StoreEvent(Struct, frozen=True, kw_only=True):
    """One event."""

    id: int
    """Of its row; of a claim, its run's."""
    at: StoreTime
    kind: str
    task_id: int | None
    subject: str | None
    """The queue, limit or node (by its id) that it is about; None: it is about the task."""
    queue: str | None
    """The task's present queue."""
    fence: int | None
    """That of the task's last run until then."""
    before: TaskState | None
    after: TaskState | None
    """None: the task stays as it was. So does one whose run has to end first."""
    who: str
    """See `Actor`."""
    reason: str | None


#: `who` of a settlement as the worker declared it.
WORKER: Final = "worker"

#: `who` where nobody recorded it.
UNKNOWN: Final = "unknown"


def is_doubled(event: StoreEvent) -> bool:
    """Return whether a claim outside of any node was read from its run: its own event has who."""
    return event.kind == EventKind.CLAIM and event.who.startswith(node_actor(LOCAL))


def ledger_of(event: StoreEvent) -> Ledger:
    """Return the table in which an event is."""
    is_run = event.kind == EventKind.CLAIM and event.who.startswith(node_actor(""))
    return Ledger.RUNS if is_run else Ledger.EVENTS


def in_order(events: Iterable[StoreEvent]) -> list[StoreEvent]:
    """Return events, the oldest first; those of one task and one time in their order."""
    return sorted(events, key=place)


def in_order_of_task(events: Iterable[StoreEvent]) -> list[StoreEvent]:
    """Return the events of one task as they followed each other, whatever their times are.

    Of two transactions on a server the one that began first may have waited for the other one. An
    id is given while the task is locked; a claim comes before all that was done to its run.
    """
    of: dict[Ledger, list[StoreEvent]] = {ledger: [] for ledger in Ledger}
    for one in sorted(events, key=attrgetter("id")):
        of[ledger_of(one)].append(one)
    claims, found = deque(of[Ledger.RUNS]), []
    for one in of[Ledger.EVENTS]:
        while claims and (claims[0].fence or 0) <= (one.fence or 0):
            found.append(claims.popleft())
        found.append(one)
    return [*found, *claims]


def place(event: StoreEvent) -> tuple[int, int, int, bool, int]:
    """Return by what events are ordered: a claim is the first of its fence."""
    is_other = event.kind != EventKind.CLAIM
    return event.at, event.task_id or 0, event.fence or 0, is_other, event.id


class Actor(Struct, frozen=True, kw_only=True):
    """Who did something: a user, a node's daemon, or a worker.

    Its text is `user:UID:NAME`, with `:NAME` of who called sudo, or `node:ID`, or `worker`.
    """

    kind: str
    node: str | None = None
    """The node's id."""
    uid: int | None = None
    user: str | None = None
    sudo_user: str | None = None


def node_actor(node: str) -> str:
    """Return the text of a node's daemon."""
    return f"node:{node}"


def actor_from(who: str) -> Actor:
    """Return the actor of a text; one that cannot be read is of the kind `unknown`."""
    match who.split(":"):
        case ["worker"]:
            return Actor(kind="worker")
        case ["node", node]:
            return Actor(kind="node", node=node)
        case ["user", uid, user, *sudo] if uid.isdecimal() and len(sudo) < 2:
            return Actor(kind="user", uid=int(uid), user=user, sudo_user=next(iter(sudo), None))
    return Actor(kind="unknown", user=who)
