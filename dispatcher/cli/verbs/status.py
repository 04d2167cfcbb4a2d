"""`dispatcher status`: the state of daemon, executor and queues."""

import shutil
import sys
from itertools import islice
from typing import Any

import click
import msgspec

from dispatcher.calendar import Calendar
from dispatcher.cli import limit_text, node_text, render
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.model import FINISHED, TaskState
from dispatcher.obstacles import Standing
from dispatcher.overview import DAY, Status, Stuck, recent_step_text
from dispatcher.store.glance import GROUPS
from dispatcher.times import StoreTime

#: Running tasks that are named in a line.
MOST_NAMED = 4

#: Lines of a terminal that are kept for what stands above the queues, and for the next prompt.
HEAD = 13

#: Tasks that could not be ended, and keep a slot, that are named one by one.
MOST_HELD = 5


@click.command(epilog=examples("dispatcher status", "dispatcher status --json | jq .states"))
@json_option
@config_option
def command(*, as_json: bool) -> None:
    """Show the state of daemon, executor and queues."""
    config = config_as_owner(whole=False)
    with Client(config) as store:
        found = status_json(store.status(), config)
    if as_json:
        print_json(found)
    else:
        _print(found)


def status_json(found: Status, config: Config) -> dict[str, Any]:
    """Return the status with every key that other programs rely on."""
    standing = found.standing
    degraded = _faults(standing)
    stuck = found.stuck()
    return {
        "health": _health(standing, degraded=degraded, stuck=stuck),
        "degraded": degraded,
        "stuck": stuck
        and {
            "tasks": stuck.tasks,
            "waited_s": stuck.waited,
            "obstacle": stuck.reason.obstacle,
            "text": stuck.reason.text,
        },
        "daemon": standing.daemon,
        **_reported(standing, config),
        "leases": {
            "running": found.leases.running,
            "oldest_renewal_age_s": _age(found.leases.oldest_renewal, standing.now),
            "oldest_heartbeat_age_s": _age(found.leases.oldest_heartbeat, standing.now),
            "next_expiry_at": render.moment(found.leases.next_expiry, standing.calendar),
        },
        "clock": _clock(standing.calendar),
        "nodes": [node_text.node_json(view, standing.calendar) for view in standing.nodes],
        "states": {
            state: sum(queue.get(state, 0) for queue in found.counts.values())
            for state in TaskState
        },
        "running": _running(found),
        "waiting": found.waiting(),
        "coming": found.coming,
        "damaged_parts": found.damaged_parts,
        "limits": limit_text.limits_json(standing.limits.values(), standing.calendar),
        "paused_queues": {queue: one.reason for queue, one in standing.paused.items()},
        "queues": {
            queue: {state: counts.get(state, 0) for state in TaskState}
            for queue, counts in found.counts.items()
        },
    }


def _reported(standing: Standing, config: Config) -> dict[str, Any]:
    """Return what the daemon reports; without a daemon, what the store has of this node."""
    report: dict[str, Any] = {} if standing.report is None else msgspec.to_builtins(standing.report)
    for unshown in ("ok", "figures"):
        report.pop(unshown, None)
    node = standing.node
    seen_at = node.seen_at if node else None
    if (ticked_ago := report.get("tick_age_s")) is not None:  # the node's row is seldom written
        seen_at = StoreTime(standing.now - round(ticked_ago * 1000))
    return {
        "daemon_pid": report.pop("pid", None),
        "executor": report.pop("executor", "unknown"),
        "node": {
            "id": report.pop("node", node and node.id),
            "hostname": report.pop("hostname", node and node.hostname),
            "slots": report.pop("slots", node.slots if node else config.slots),
            "seen_at": render.moment(seen_at, standing.calendar),
            **report,
        },
    }


def _running(found: Status) -> list[dict[str, Any]]:
    now = found.standing.now
    return [
        {"id": task.id, "queue": task.queue, **render.last_run_json(run, now)}
        for task, run in found.running
    ]


def _clock(calendar: Calendar) -> dict[str, Any]:
    """Return the host's clock against the store's, and its last step within a day."""
    step = calendar.last_step(within_ms=DAY)
    return {
        "ahead_ms": calendar.ahead_ms,
        "stepped_at": step and calendar.iso(step.since),
        "step_ms": step and step.step_ms,
        "text": recent_step_text(calendar),
    }


def _health(standing: Standing, *, degraded: list[str], stuck: Stuck | None) -> str:
    if standing.daemon != "running":
        return standing.daemon
    return "stuck" if stuck else "degraded" if degraded else "ok"


def _faults(standing: Standing) -> list[str]:
    faults = [reason.text for reason in standing.faults()]
    if standing.unreachable is not None:
        faults.append(standing.unreachable)
    if (report := standing.report) is None:
        return faults
    faults += report.config_mistakes
    if (why := report.workers_shut_out) is not None:
        faults.append(f"workers cannot connect, and their leases wait: {why}")
    if (locked := report.rows_locked) is not None and not locked.node_row:  # then it is an obstacle
        faults.append(locked.describe())
    held = report.unkillable_because
    for task_id, why in islice(held.items(), MOST_HELD):
        faults.append(f"task {task_id} is not proved gone and keeps its slot: {why}")
    if len(held) > MOST_HELD:
        faults.append(f"{len(held) - MOST_HELD} more tasks keep their slots in the same way")
    for work, error in report.postponed.items():
        faults.append(f"{work}: the store does not take it: {error}")
    away = not report.is_connected
    faults += [one.describe(f"task {one.task_id}", awaited=away) for one in report.stranded]
    return faults


def _age(moment: StoreTime | None, now: StoreTime) -> float | None:
    return None if moment is None else max(0.0, (now - moment) / 1000)


def _print(found: dict[str, Any]) -> None:
    node = found["node"]
    _print_daemon(found)
    click.echo(f"executor  {found['executor']}")
    click.echo(f"node      {node['id'] or 'none yet'} ({node['hostname'] or 'never started'})")
    busy = f"{node['busy']} of " if "busy" in node else ""
    click.echo(f"slots     {busy}{node['slots']}")
    click.echo("".join(f"{text}\n" for text in node_text.lines(found["nodes"])), nl=False)
    for text in found["degraded"]:
        click.echo(f"degraded  {render.plain(text)}")
    if stuck := found["stuck"]:
        tasks = (
            "a ready task waits" if stuck["tasks"] == 1 else f"{stuck['tasks']} ready tasks wait"
        )
        tasks = f"{tasks} for up to {stuck['waited_s']:.0f} s"
        click.echo(f"stuck     {tasks} though slots are free: {render.plain(stuck['text'])}")
    if found["clock"]["text"]:
        click.echo(f"clock     {found['clock']['text']}")
    _print_ages(found)
    _print_running(found)
    if found["waiting"]:
        words = ((one.replace("_", " "), tasks) for one, tasks in found["waiting"].items())
        waiting = (f"{tasks} {obstacle}" for obstacle, tasks in words)
        click.echo(f"waiting   {', '.join(waiting)}")
    _print_coming(found)
    if output := node.get("output"):
        click.echo(f"output    {_output_text(output)}")
        for trouble in output["trouble"]:
            click.echo(f"          {render.plain(trouble)}")
    _print_failures(node)
    for queue, reason in found["paused_queues"].items():
        click.echo(f"queue     {queue} is paused: {render.plain(reason)}")
    for text in limit_text.lines(found["limits"]):
        click.echo(text)
    if not found["queues"]:
        click.echo("no tasks")
        return
    click.echo()
    _print_queues(found)


def _print_failures(node: dict[str, Any]) -> None:
    """Print what fails outside of the daemon's loop: the metrics' file, the listener, the bell."""
    if why := node.get("metrics_unwritten"):
        click.echo(f"metrics   [metrics] textfile is not written: {render.plain(why)}")
    if why := node.get("listener_failure"):
        click.echo(f"listener  other nodes cannot read output here: {render.plain(why)}")
    if why := node.get("bell_failure"):
        click.echo(f"polling   changes are found by [daemon] poll alone: {render.plain(why)}")


def _print_running(found: dict[str, Any]) -> None:
    """Print which tasks run, for how long and how far they are."""
    named = []
    for run in found["running"][:MOST_NAMED]:
        progress = "" if run["progress"] is None else f", {run['progress'] * 100:.3g} %"
        took = render.seconds(run["duration_s"] or 0.0)
        named.append(f"{run['id']} ({took}{progress})")
    if (rest := found["states"][TaskState.RUNNING] - len(named)) and named:
        named.append(f"{rest} more: dispatcher list")
    if named:
        click.echo(f"running   {', '.join(named)}")


def _print_queues(found: dict[str, Any]) -> None:
    """Print the queues, first those with work, each with what runs before what is over.

    A terminal shows as many as fit below the lines about the daemon, those with work at least.
    """
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    in_order = (state for states, _ in GROUPS for state in states)
    shown = [state for state in in_order if found["states"][state]]
    queues = sorted(found["queues"].items(), key=lambda queue: not _has_work(queue[1]))
    rows = [(queue, *(counts[state] for state in shown)) for queue, counts in queues]
    folded = 0
    if sys.stdout.isatty() and len(rows) > (room := shutil.get_terminal_size().lines - HEAD):
        with_work = sum(_has_work(counts) for _, counts in queues)
        folded = len(rows) - max(with_work, room - 1)
    print_table(("QUEUE", *(state.upper() for state in shown)), rows[: len(rows) - max(folded, 0)])
    if folded > 0:
        click.echo(f"and {folded} {'queue' if folded == 1 else 'queues'} with nothing to do")


def _has_work(counts: dict[TaskState, int]) -> bool:
    return any(tasks for state, tasks in counts.items() if state not in FINISHED)


def _print_daemon(found: dict[str, Any]) -> None:
    """Print the daemon's state, pid, uptime and configuration, as far as they are known."""
    node, state = found["node"], found["daemon"]
    if stopping := node.get("stopping"):
        state = "draining" if stopping == "drain" else f"stopping ({stopping})"
    facts = [f"{state} (pid {found['daemon_pid']})" if found["daemon_pid"] else state]
    if (uptime := node.get("uptime_s")) is not None:
        facts.append(f"started {render.ago(StoreTime(0), StoreTime(round(uptime * 1000)))}")
    if (left := node.get("ends_runs_in_s")) is not None:
        facts.append(f"ends what runs in {left:.0f} s")
    click.echo(f"daemon    {', '.join(facts)}")
    if (file := node.get("config_file", "")) != "":
        click.echo(f"config    {render.plain(file or 'built-in defaults: no file')}")


def _print_coming(found: dict[str, Any]) -> None:
    """Print how many tasks are accepted and not listed yet, and which parts are damaged."""
    if found["coming"]:
        what = "tasks of a bulk submit are accepted; their submit, or a daemon, makes them"
        click.echo(f"coming    {found['coming']} {what}")
    for text in found["damaged_parts"]:
        click.echo(f"          {render.plain(text)}")


def _output_text(output: dict[str, Any]) -> str:
    taken = "not looked at yet" if output["bytes"] is None else render.size(output["bytes"])
    free = "" if output["free_bytes"] is None else f", {render.size(output['free_bytes'])} free"
    return f"{taken} of {render.size(output['budget_bytes'])}{free}"


def _print_ages(found: dict[str, Any]) -> None:
    node, leases = found["node"], found["leases"]
    ages = ((what, node.get(f"{what}_age_s")) for what in ("tick", "reap", "claim", "start"))
    if last := [f"{what} {age:.1f} s" for what, age in ages if age is not None]:
        click.echo(f"last      {', '.join(last)} ago")
    if leases["running"]:
        oldest = [f"oldest renewal {leases['oldest_renewal_age_s']:.1f} s"]
        if (beat := leases["oldest_heartbeat_age_s"]) is not None:
            oldest.append(f"oldest heartbeat {beat:.1f} s")
        click.echo(f"leases    {leases['running']}, {', '.join(oldest)} ago")
