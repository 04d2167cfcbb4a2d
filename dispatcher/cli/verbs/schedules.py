"""`dispatcher schedules`: list them, pause one, let it go on, or forget it."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from dispatcher.cli import render
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import TEXT
from dispatcher.cli.printing import print_json
from dispatcher.schedules import ScheduleChange
from dispatcher.times import WallTime, iso

if TYPE_CHECKING:
    from dispatcher.operations.schedules import ScheduleView

#: What is printed of a change, by whether it changed anything.
_TEXTS: Mapping[ScheduleChange, tuple[str, str]] = {
    ScheduleChange.PAUSE: ("is paused", "was paused already"),
    ScheduleChange.RESUME: ("goes on", "was not paused"),
    ScheduleChange.FORGET: ("is forgotten", "was forgotten already"),
}


@click.command(
    epilog=examples(
        "dispatcher schedules",
        "dispatcher schedules pause nightly --reason 'the disk is full'",
        "dispatcher schedules resume nightly",
    )
)
@click.argument(
    "action", type=click.Choice([change.value for change in ScheduleChange]), required=False
)
@click.argument("schedules", metavar="[SCHEDULE...]", nargs=-1)
@click.option(
    "--reason", type=TEXT, metavar="TEXT", help="Why it is paused; `schedules` prints it."
)
@json_option
@config_option
def command(
    *, action: str | None, schedules: tuple[str, ...], reason: str | None, as_json: bool
) -> None:
    """List the schedules: when each fires next, and what became of the last time.

    `pause` lets one submit nothing, `resume` ends that: times between are not made up for. `forget`
    removes what the store keeps of one that the configuration no longer has.
    """
    if action is None:
        _list(as_json=as_json)
        return
    word = ScheduleChange(action)
    if not schedules:
        raise click.UsageError(f"{word}: name the schedule; dispatcher schedules lists them")
    if reason is not None and word is not ScheduleChange.PAUSE:
        raise click.UsageError(f"--reason: {word} has none; leave it out")
    if reason is not None and not reason.strip():
        raise click.UsageError("--reason: is empty; give a reason, or leave it out")
    if word is ScheduleChange.PAUSE:
        reason = reason or "paused by an operator"
    with open_client() as store:
        done = {name: store.change_schedule(name, word, reason) for name in schedules}
    if as_json:
        print_json([{"schedule": name, "done": one} for name, one in done.items()])
        return
    for name, one in done.items():
        click.echo(f"{render.plain(name)} {_TEXTS[word][not one]}")


def _list(*, as_json: bool) -> None:
    with open_client() as store:
        views = store.schedules()
        if as_json:
            print_json([_json(view) for view in views])
        elif not views:
            click.echo("dispatcher: no schedules; add [schedules.NAME] to the file", err=True)
        else:
            _print(views)


def _print(views: list["ScheduleView"]) -> None:
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    print_table(
        ("SCHEDULE", "CRON", "ZONE", "LAST", "TASK", "ENDED", "NEXT", "NOTE"),
        ([render.line(str(text)) for text in _row(view)] for view in views),
        spare=("ZONE",),
    )


def _row(view: "ScheduleView") -> tuple[object, ...]:
    state, here = view.state, view.schedule
    zone = None if here is None else here.time_zone
    return (
        view.name,
        here.cron if here else "",
        here.time_zone if here else "",
        _date(None if state is None else state.fired_at, zone),
        (state and state.task_id) or "",
        (view.task and view.task.state) or ("deleted" if state and state.task_id else ""),
        _date(view.next_at, zone),
        _note(view),
    )


def _note(view: "ScheduleView") -> str:
    """Return what people have to know of a schedule."""
    if view.schedule is None:
        return "not in this configuration"
    if view.state is None:
        return "no daemon has it yet"
    if view.state.paused is not None:
        return f"paused: {view.state.paused}"
    return view.state.note or ""


def _date(moment: WallTime | None, zone: str | None) -> str:
    """Return a date in a schedule's time zone, or in UTC."""
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment / 1000, ZoneInfo(zone or "UTC")).isoformat(
        timespec="minutes"
    )


def _json(view: "ScheduleView") -> dict[str, Any]:
    """Return a schedule with every key that other programs rely on."""
    here, state = view.schedule, view.state
    return {
        "schedule": view.name,
        "cron": here and here.cron,
        "time_zone": here and here.time_zone,
        "catch_up": here and here.catch_up,
        "overlap": here and here.overlap,
        "last_at": None if state is None or state.fired_at is None else iso(state.fired_at),
        "task_id": state and state.task_id,
        "state": view.task and view.task.state,
        "outcome": view.outcome,
        "next_at": None if view.next_at is None else iso(view.next_at),
        "note": state and state.note,
        "paused": state and state.paused,
    }
