"""`dispatcher events`: what happened to tasks, queues and nodes, and by whom."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import click

from dispatcher import named_limits
from dispatcher.calendar import Calendar
from dispatcher.cli import event_text
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import COUNT, MOMENT, TEXT, offered
from dispatcher.cli.printing import print_json_line, print_json_list
from dispatcher.client import Client
from dispatcher.errors import NoTask
from dispatcher.events import EventKind, StoreEvent, in_order
from dispatcher.nodes import names
from dispatcher.operations import events
from dispatcher.operations.waiting import POLL
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import StoreTime, WallTime, instant, sleep

#: Events that are printed unless something else is asked for.
LAST = 50

#: Kinds whose subject is a queue, or a limit, which may be that of a queue.
_OF_QUEUES = {EventKind.PAUSE, EventKind.RESUME}
_OF_LIMITS = {EventKind.LIMIT_CLOSED, EventKind.LIMIT_OPENED}

_Wanted = Callable[[StoreEvent], bool]


@click.command(
    epilog=examples(
        "dispatcher events",
        "dispatcher events -f --queue nightly",
        "dispatcher events --task 42",
        "dispatcher events --since 2h --json | jq '.[] | select(.event == \"cancel\")'",
    )
)
@click.option("-f", "--follow", is_flag=True, help="Print what comes, too, until interrupted.")
@click.option("--task", "task_id", type=int, metavar="ID", help="Only of this task.")
@click.option(
    "--queue",
    "-q",
    type=TEXT,
    metavar="NAME",
    shell_complete=offered("queues"),
    help="Only of tasks that are in this queue now, and of the queue itself.",
)
@click.option(
    "--since", type=MOMENT, metavar="TIME", help='Since then: a date, or an age, e.g. "2h".'
)
@click.option(
    "-n",
    "limit",
    type=COUNT,
    metavar="N",
    help=f"The last N [default: {LAST}; with --task or --since all].",
)
@json_option
@config_option
def command(
    *,
    follow: bool,
    task_id: int | None,
    queue: str | None,
    since: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print what happened to tasks, queues and nodes, by whom and why; the oldest first.

    That is each change of a task's state, and what operators did. Times are UTC. JSON is a list,
    with -f a line for each event.
    """
    with open_client() as store:
        if task_id is not None and store.task(task_id, payload=False) is None:
            raise NoTask(task_id)
        follower = events.Follower(store.store, at=instant()) if follow else None
        wanted = partial(_is_wanted, task_id=task_id, queue=queue)
        if limit is None and task_id is None and since is None:
            limit = LAST
        begin = _store_time(since, store.calendar())
        found = list(islice(filter(wanted, _past(store, task_id, begin)), limit))
        found = in_order(found) if task_id is None else found[::-1]
        if follower is None:
            _print(store, found, as_json=as_json)
            return
        _print_lines(store, filter(follower.has_read, found), as_json=as_json)
        while True:
            _print_new(store, follower, wanted, as_json=as_json)


def _print_new(store: Client, follower: events.Follower, wanted: _Wanted, *, as_json: bool) -> None:
    """Print what has come, and pause, unless more is there already."""
    found = follower.read(instant())
    _print_lines(store, filter(wanted, found), as_json=as_json)
    if len(found) < events.BATCH:
        sleep(POLL)


def _is_wanted(event: StoreEvent, *, task_id: int | None, queue: str | None) -> bool:
    if task_id is not None and event.task_id != task_id:
        return False
    if queue is None:
        return True
    if event.kind in _OF_LIMITS:
        return event.subject == named_limits.of_queue(queue)
    return queue == (event.subject if event.kind in _OF_QUEUES else event.queue)


def _past(store: Client, task_id: int | None, since: StoreTime | None) -> Iterator[StoreEvent]:
    """Yield what happened, the newest first."""
    if task_id is None:
        yield from events.backwards(store.store, since=since)
        return
    for event in reversed(events.of_task(store.store, task_id)):
        if since is None or event.at >= since:
            yield event


def _print(store: Client, found: Iterable[StoreEvent], *, as_json: bool) -> None:
    if as_json:
        calendar = store.calendar()
        print_json_list(event_text.event_json(one, calendar) for one in found)
    else:
        _print_lines(store, found, as_json=False)


def _print_lines(store: Client, found: Iterable[StoreEvent], *, as_json: bool) -> None:
    """Print events as soon as they are known."""
    if not (found := list(found)):
        return
    calendar = store.calendar()
    hosts = {} if as_json else _hosts(store)
    for event in found:
        if as_json:
            print_json_line(event_text.event_json(event, calendar))
        else:
            click.echo(event_text.line(event, calendar.iso(event.at), hosts))


def _hosts(store: Client) -> dict[str, str]:
    with store.store.snapshot():
        return names(store.store.nodes())


def _store_time(given: int | None, calendar: Calendar) -> StoreTime | None:
    if isinstance(given, Milliseconds):
        return StoreTime(calendar.now - given)
    return None if given is None else calendar.moment(WallTime(given))
