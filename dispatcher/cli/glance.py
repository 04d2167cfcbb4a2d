"""Tasks at a glance: one row each, with what a person looks for in its state."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from msgspec import Struct

from dispatcher.cli import render
from dispatcher.cli.lines import NAME
from dispatcher.cli.output import end_of
from dispatcher.cli.tables import CommandCell
from dispatcher.execution import LOCAL
from dispatcher.host import output_files
from dispatcher.model import FINISHED, Run, Task, TaskState
from dispatcher.obstacles import BY_STATE, Obstacle, Standing
from dispatcher.store.glance import GROUPS, MOST_BEFORE, Glance, Seen
from dispatcher.times import StoreTime, WallTime

HEADINGS = ("ID", "STATE", "QUEUE", "PRIORITY", "TIME", "DETAIL", "COMMAND")

#: Columns that a narrow terminal leaves out, the first ones first.
SPARE = ("PRIORITY", "QUEUE")

#: Columns of a terminal that the widest cells keep before any is left out: "slots full; 1st in
#: line" is whole.
READABLE = 23

#: Columns that are left out if all tasks have the same value.
ALIKE = ("PRIORITY", "QUEUE")

#: Characters of a detail, as the longest cell sets the width; `show` has all of it.
DETAIL = 160

#: Milliseconds without output after which a run is called silent.
SILENCE = 60_000

#: Paused queues that are named below a list.
MOST_PAUSED = 3

#: Reasons that a person need not be reminded of.
_PLAIN_REASONS = frozenset({"submitted", "delayed by its submitter", "its time has come"})

#: Shells whose script is shown alone.
_SHELLS = frozenset({"sh", "bash", "/bin/sh", "/bin/bash"})

#: Escape sequences with which programs colour their output or move the cursor (ECMA-48).
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")


class View(Struct, frozen=True, kw_only=True):
    """The facts that all rows need."""

    standing: Standing
    obstacle: Callable[[Task], Obstacle | None]
    output_dir: Path
    absolute: bool = False
    """Whether times are dates."""

    @property
    def now(self) -> StoreTime:
        return self.standing.now

    def when(self, time: StoreTime | None) -> str:
        return render.time(time, self.standing.calendar, absolute=self.absolute)


def obstacles(standing: Standing) -> Callable[[Task], Obstacle | None]:
    """Return a function for a task's nearest obstacle: ready ones of a queue, alike, share it."""

    @cache
    def nearest(
        queue: str, requires: tuple[tuple[str, str], ...], takes: tuple[tuple[str, int], ...]
    ) -> Obstacle:
        return standing.queue_obstacles(queue, dict(requires), dict(takes))[0].obstacle

    def obstacle(task: Task) -> Obstacle | None:
        if task.state is not TaskState.READY:
            return BY_STATE.get(task.state)
        if task.key_holder is not None:
            return Obstacle.KEY_TAKEN
        return nearest(task.queue, (*task.requires.items(),), (*task.takes.items(),))

    return obstacle


def row(seen: Seen, view: View) -> tuple[object, ...]:
    """Return the cells of a task under `HEADINGS`.

    The time is how long a ready task has waited, and otherwise how long its last run took so far.
    """
    task, run = seen.task, seen.run
    took = ""
    if task.state is TaskState.READY:
        took = render.duration(task.run_at, view.now)
    elif run is not None and task.state is not TaskState.SCHEDULED:
        took = render.duration(render.began(run), run.ended_at or view.now)
    return (
        task.id,
        task.state,
        task.queue,
        task.priority or None,
        took,
        render.short(_detail(seen, view), DETAIL),
        command_cell(task, _command(task.command)),
    )


def summary(counts: Mapping[TaskState, int]) -> str:
    """Return how many tasks there are, and in which states, in the order of the list."""
    total = sum(counts.values())
    states = (state for states, _ in GROUPS for state in states)
    parts = ", ".join(f"{counts[state]} {state}" for state in states if counts.get(state))
    return f"{total} {'task' if total == 1 else 'tasks'}: {parts}" if total else "no tasks"


def omitted(found: Glance) -> Iterator[str]:
    """Yield how many tasks that need a person are not shown, unless nothing else is."""
    shown = Counter(seen.task.state for seen in found.seen)
    for state in (TaskState.HELD, TaskState.FAILED):
        there = found.counts.get(state, 0)
        if there > shown[state] and there < sum(found.counts.values()):
            yield f"… {there - shown[state]} more {state}: --state {state} lists them"


def hindrances(counts: Mapping[TaskState, int], standing: Standing) -> Iterator[str]:
    """Yield what keeps all unfinished tasks, or those of a queue, from going on."""
    if any(counts.get(state) for state in TaskState if state not in FINISHED):
        if not standing.others:
            for reason in (*standing.daemon_obstacles(), *standing.drain(), *standing.faults()):
                yield render.plain(reason.text)
        if len(standing.paused) > MOST_PAUSED:
            yield f"{len(standing.paused)} queues are paused; dispatcher status names them"
            return
        for queue, paused in standing.paused.items():
            yield render.plain(
                f"queue {queue} is paused: {paused.reason}; dispatcher resume {queue}"
            )


def command_cell(task: Task, command: str) -> CommandCell:
    """Return the cell of a task's command: its label `name` stands first, then the others."""
    labels = dict(task.labels)
    name = labels.pop(NAME, "")
    return CommandCell(command, render.line(name), render.line(render.pairs_text(labels)))


def _command(command: tuple[str, ...]) -> str:
    """Return a command as a user types it; of a shell only its script."""
    is_script = len(command) == 3 and command[0] in _SHELLS and command[1] == "-c"
    return render.line(command[2].strip()) if is_script else render.command_text(command)


def _detail(seen: Seen, view: View) -> str:
    task, run = seen.task, seen.run
    if task.state is TaskState.RUNNING:
        return "" if run is None else _of_running(task, run, view)
    if task.state is TaskState.READY:
        return "; ".join(_of_ready(seen, view))
    reason = [] if task.reason in _PLAIN_REASONS else [_reason(task, run)]
    if task.state is TaskState.SCHEDULED:
        return "; ".join([f"due {view.when(task.run_at)}", *reason])
    ended = view.when(task.finished_at or (None if run is None else run.ended_at))
    if task.state is TaskState.SUCCEEDED:
        return _with_report([ended], None if run is None else run.result)
    reports = run is not None and task.state is not TaskState.CANCELLED
    return _with_report([*reason, ended], _last_line(run, view) if run and reports else None)


def _of_running(task: Task, run: Run, view: View) -> str:
    """Return how far a run is, since when it is silent, and its last line of output."""
    if run.node.startswith(LOCAL):
        claimed = f"a local claim; its lease ends {view.when(run.lease_expires_at)}"
        return "; ".join(filter(None, (render.progress_text(run), claimed)))
    output = _output(run, view)
    silent = _silence(run, None if output is None else output[1], view)
    facts = (
        "" if (there := view.standing.elsewhere(run)) is None else f"on {render.line(there.name)}",
        f"ends as {task.ending}" if task.ending else "",
        "" if run.started_at else "starts",
        render.progress_text(run),
        f"silent {render.span(silent)}" if silent >= SILENCE else "",
        f"attempt {task.attempts_used + 1} of {task.max_attempts}" if task.attempts_used else "",
    )
    return _with_report(facts, None if output is None else last_line(output[0]))


def _of_ready(seen: Seen, view: View) -> Iterator[str]:
    """Yield what keeps a task from running, its place in its queue, and why it is there again."""
    task, obstacle = seen.task, view.obstacle(seen.task)
    if obstacle is Obstacle.QUEUE_FULL and view.standing.is_by_hand(task.queue):
        yield "for local claims"
    elif obstacle is not None and obstacle is not Obstacle.TURN_COMES:
        yield obstacle.replace("_", " ")
    if (before := seen.before) is not None:
        place = f"{ordinal(before + 1)} in line"
        yield place if before < MOST_BEFORE else f"after {before} others"
    if task.reason not in _PLAIN_REASONS:
        yield task.reason


def _reason(task: Task, run: Run | None) -> str:
    """Return why a task is held or over, with the exit code if that adds something."""
    charged = f" (attempt {task.attempts_used} of {task.max_attempts})"
    reason = task.reason.removesuffix(charged)
    if reason != task.reason and task.attempts_used > 1:
        reason += f", {task.attempts_used} attempts"
    code = None if run is None else run.exit_code
    if not code or task.state is TaskState.CANCELLED or f"exit code {code}" in reason:
        return reason
    return f"{reason}, exit code {code}"


def _with_report(facts: Iterable[str], reported: str | None) -> str:
    """Return facts, and then what a task itself reported."""
    return ": ".join(filter(None, ("; ".join(filter(None, facts)), reported)))


def _silence(run: Run, written_at: WallTime | None, view: View) -> int:
    """Return the milliseconds since a run's last output or progress; 0 if that is unknown."""
    if written_at is None or run.started_at is None:
        return 0
    since = max(run.started_at, view.standing.calendar.moment(written_at))
    if run.last_heartbeat_at is not None and (run.progress, run.note) != (None, None):
        since = max(since, run.last_heartbeat_at)
    return max(0, view.now - since)


def _last_line(run: Run, view: View) -> str | None:
    output = _output(run, view)
    return None if output is None else last_line(output[0])


def _output(run: Run, view: View) -> tuple[str, WallTime] | None:
    moved = output_files.relocated(run.output_path, str(view.output_dir))
    return end_of(moved) or end_of(run.output_path)


def last_line(text: str) -> str:
    """Return the last line of an output that is not blank, as a terminal shows it."""
    lines = render.as_on_a_terminal(_ESCAPES.sub("", text))
    return next((shown for line in reversed(lines) if (shown := " ".join(line.split()))), "")


def ordinal(number: int) -> str:
    """Return a number as a place: 1st, 2nd, 3rd, 4th, 11th."""
    last = 0 if number // 10 % 10 == 1 else number % 10
    return str(number) + {1: "st", 2: "nd", 3: "rd"}.get(last, "th")
