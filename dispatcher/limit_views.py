"""Named limits as a store has them: who holds each, and what keeps tasks from starting. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from msgspec import Struct

from dispatcher.calendar import Calendar
from dispatcher.named_limits import Closing, Rule, of_queue, queue_of
from dispatcher.times import StoreTime

#: Holders that a text names.
MOST_NAMED: Final = 3

#: Values of `obstacles.Obstacle`.
Kind = Literal["limit_closed", "limit_full", "limit_rate", "queue_full"]


class LimitView(Struct, frozen=True, kw_only=True):
    """A limit, and how much of it is used."""

    name: str
    rule: Rule | None = None
    """None: it is not configured here, so that it limits nothing unless it is closed."""
    closing: Closing | None = None
    """None: it has no row in the store."""
    holders: Mapping[int, int] = {}
    """How much of it each running task holds."""
    running: int = 0
    """Of a queue's limit, how many of its tasks run, local claims left out."""
    started: int = 0
    """How much of it was started within the window of its rate."""
    next_start_at: StoreTime | None = None
    """When the oldest of these starts leaves the window."""

    @property
    def held(self) -> int:
        return self.running + sum(self.holders.values())

    def closed(self, now: StoreTime) -> Closing | None:
        """Return its closing; None if it is open."""
        is_closed = self.closing is not None and self.closing.is_closed(now)
        return self.closing if is_closed else None

    def obstacle(self, many: int, calendar: Calendar) -> tuple[Kind, str, StoreTime | None] | None:
        """Return what keeps a task that takes so much of it from starting, and until when."""
        if (closed := self.closed(calendar.now)) is not None:
            return "limit_closed", closed_text(closed, calendar), closed.ends_at(calendar.now)
        rule = self.rule or Rule()
        if many > (rule.most or many):
            kind: Kind = "limit_full" if many > (rule.concurrency or many) else "limit_rate"
            text = (
                f"it needs {many} of limit {self.name}, which never lets one task take more than"
                f" {rule.most} ({rule}); raise it: [limits.{self.name}]"
            )
            return kind, text, None
        if (most := rule.concurrency) is not None and self.held + many > most:
            wants = (
                f"it needs {many} of limit {self.name}, which" if many > 1 else f"limit {self.name}"
            )
            text = f"{wants} has {self.held} of {most} held by {self.holders_text()}"
            return "limit_full", text, None
        if rule.rate is not None and self.started + many > rule.rate.many:
            text = f"limit {self.name} lets {rule.rate} start, and {self.started} have"
            return "limit_rate", text, self.next_start_at
        return None

    def holders_text(self) -> str:
        """Return which tasks hold it."""
        named = [f"{task}" for task in sorted(self.holders)[:MOST_NAMED]]
        more = len(self.holders) - len(named)
        tasks = "task" if len(self.holders) == 1 else "tasks"
        return f"{tasks} {', '.join(named)}" + (f" and {more} more" if more else "")


def closed_text(closed: Closing, calendar: Calendar) -> str:
    """Return since when a limit is closed, why, and until when."""
    since = calendar.iso(closed.closed_at or calendar.now)
    until = "until somebody opens it"
    if closed.probe is not None:
        until = "until a probe succeeds"
    elif closed.closed_until is not None:
        until = f"until {calendar.iso(closed.closed_until)}"
    return (
        f"limit {closed.name} is closed since {since}, {until}: {closed.closed_reason};"
        f" dispatcher limit open {closed.name}"
    )


def obstacles(
    queue: str, takes: Mapping[str, int], views: Mapping[str, LimitView], calendar: Calendar
) -> Iterator[tuple[Kind, str, StoreTime | None]]:
    """Yield what the limits of a queue and of a task keep from starting."""
    own = views.get(of_queue(queue))
    if own is not None and (closed := own.closed(calendar.now)) is not None:
        yield "limit_closed", closed_text(closed, calendar), closed.ends_at(calendar.now)
    elif own is not None and own.rule and own.held >= (most := own.rule.concurrency or 0) > 0:
        text = (
            f"its queue {queue} has {most} running on all nodes, as many as [queues.{queue}]"
            " global_concurrency allows; local claims do not count"
        )
        yield "queue_full", text, None
    for name, many in sorted(takes.items()):
        view = views.get(name)
        if view is not None and (found := view.obstacle(many, calendar)) is not None:
            yield found


def viewed(
    rules: Mapping[str, Rule],
    closings: Iterable[Closing],
    holders: Mapping[int, Mapping[str, int]],
) -> dict[str, LimitView]:
    """Return the limits that are configured, closed, or held, by name.

    No claim obeys the limit of a queue that has no rule here, as once its breaker was removed.
    """
    rows = {
        one.name: one
        for one in closings
        if one.name in rules or (one.closed_at is not None and queue_of(one.name) is None)
    }
    held: dict[str, dict[int, int]] = {}
    for task_id, takes in holders.items():
        for name, many in takes.items():
            held.setdefault(name, {})[task_id] = many
    return {
        name: LimitView(
            name=name, rule=rules.get(name), closing=rows.get(name), holders=held.get(name, {})
        )
        for name in sorted({*rules, *rows, *held})
    }
