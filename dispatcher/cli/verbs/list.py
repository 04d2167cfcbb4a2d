"""`dispatcher list`: tasks, those first that a person looks for."""

import sys
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from typing import Any

import click
from msgspec.structs import replace

from dispatcher.calendar import Calendar
from dispatcher.cli import glance, render
from dispatcher.cli.dashboard import LIMIT, Dashboard, report_more, report_none
from dispatcher.cli.filters import filter_options
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import absolute_option, config_option, examples, json_option
from dispatcher.cli.param_types import COUNT, MOMENT
from dispatcher.cli.printing import print_json, print_json_line
from dispatcher.client import Client
from dispatcher.model import Run, Task, TaskFilter, TaskState
from dispatcher.obstacles import Obstacle
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.search import each_with_run
from dispatcher.times import StoreTime, WallTime

#: Dependencies of a tree that are drawn.
MOST_DEPENDENCIES = 100_000


@click.command(
    epilog=examples(
        "dispatcher list -w",
        "dispatcher list --state running --state ready",
        "dispatcher list --queue nightly --label team=data --since 2h",
        "dispatcher list --state failed --since 2026-08-01 --until 2026-08-02T06:00",
        'dispatcher list --text "gzip -k" --limit 20',
        "dispatcher list --state failed --json | jq '.[] | [.id, .exit_code]'",
        "dispatcher list --limit 1000000 --json-lines | grep big.log",
    )
)
@filter_options(list(TaskState))
@click.option(
    "--since",
    type=MOMENT,
    metavar="TIME",
    help='Submitted since then: a date, or an age, e.g. "2h".',
)
@click.option(
    "--until", type=MOMENT, metavar="TIME", help='Submitted before, e.g. "2026-08-01T06:00".'
)
@click.option(
    "--limit",
    type=COUNT,
    metavar="N",
    help="Maximum to list [default: 20 held, 20 failed, 10 that wait, 10 that are over; 100 with"
    " --state, --oldest-first or --json].",
)
@click.option("--oldest-first", is_flag=True, help="By age, the oldest first.")
@click.option("--tree", is_flag=True, help="Each task below a parent for which it waits.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every two seconds.")
@absolute_option
@json_option
@click.option("--json-lines", is_flag=True, help="Print JSON, a line for each task.")
@config_option
def command(
    *,
    limit: int | None,
    absolute: bool,
    watch: bool,
    tree: bool,
    as_json: bool,
    json_lines: bool,
    wanted: TaskFilter,
    since: int | None,
    until: int | None,
    oldest_first: bool,
) -> None:
    """List tasks as a person looks for them.

    First those that run; then those that need you, held or failed; then those that wait, in the
    order in which they run; then the last ones that are over. Without --limit they fit the
    terminal. JSON lists the newest first.

    Dates without a zone are in your zone; printed times are UTC.
    """
    if watch and (as_json or json_lines or not sys.stdout.isatty()):
        raise click.UsageError("--watch: needs a terminal, and prints no JSON")
    if tree and (as_json or json_lines or watch):
        raise click.UsageError("--tree: is for people, and drawn once; `show --json` has parents")
    with open_client() as store:
        calendar = store.calendar()
        begin, end = _store_time(since, calendar), _store_time(until, calendar)
        wanted = replace(wanted, since=begin, until=end, oldest_first=oldest_first)
        if as_json or json_lines:
            _print_json(store, replace(wanted, limit=limit or LIMIT), by_line=json_lines)
            return
        if tree:
            _print_tree(store, replace(wanted, limit=limit or LIMIT))
            return
        shown = Dashboard(client=store, wanted=wanted, limit=limit, absolute=absolute)
        if watch:
            shown.watch()
        else:
            shown.print()


def _print_json(store: Client, wanted: TaskFilter, *, by_line: bool) -> None:
    found = iter(each_with_run(store.store, replace(wanted, limit=wanted.limit + 1)))
    first = list(islice(found, 1))
    standing = store.standing()
    as_mapping = partial(_as_json, obstacle=glance.obstacles(standing), calendar=standing.calendar)
    shown = map(as_mapping, chain(first, islice(found, wanted.limit - 1)))
    if by_line:
        for one in shown:
            print_json_line(one)
    else:
        print_json(list(shown))
    if not first:
        report_none(store, wanted)
    elif next(found, None) is not None:
        report_more(store, wanted)


def _print_tree(store: Client, wanted: TaskFilter) -> None:
    from dispatcher.cli import kin  # noqa: PLC0415 - for trees alone

    found = list(each_with_run(store.store, replace(wanted, limit=wanted.limit + 1)))
    shown = found[: wanted.limit]
    of_parents = store.parents(*(task.id for task, _ in shown), limit=MOST_DEPENDENCIES)
    for line in kin.tree([task for task, _ in shown], of_parents):
        click.echo(render.plain(line))
    if not shown:
        report_none(store, wanted)
    elif len(found) > len(shown):
        report_more(store, wanted)


def _as_json(
    found: tuple[Task, Run | None],
    *,
    obstacle: Callable[[Task], Obstacle | None],
    calendar: Calendar,
) -> dict[str, Any]:
    task, run = found
    return {
        **render.task_json(task, calendar),
        **render.last_run_json(run, calendar.now),
        "obstacle": obstacle(task),
    }


def _store_time(given: int | None, calendar: Calendar) -> StoreTime | None:
    if isinstance(given, Milliseconds):
        return StoreTime(calendar.now - given)
    return None if given is None else calendar.moment(WallTime(given))
