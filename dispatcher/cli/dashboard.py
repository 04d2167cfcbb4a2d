"""The list for people: what they look for first, as one table that can be drawn again and again."""

import shutil
import sys
import textwrap
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, islice

import click
from msgspec import Struct
from msgspec.structs import replace

from dispatcher.cli import glance, render, tables
from dispatcher.client import Client
from dispatcher.errors import StoreUnavailable, did_you_mean
from dispatcher.model import TaskFilter, TaskState
from dispatcher.obstacles import Standing
from dispatcher.store.glance import MOST_AT_ONCE, Glance, Seen, search
from dispatcher.store.glance import glance as at_a_glance
from dispatcher.store.search import each_with_run

#: The limit where none is given.
LIMIT = 100

#: Lines that are printed on the smallest terminal.
LEAST = 12

#: Seconds between two frames of a watched list.
INTERVAL = 2.0


class Dashboard(Struct, frozen=True, kw_only=True):
    """The tasks that a filter wants, as a person looks for them."""

    client: Client
    wanted: TaskFilter
    limit: int | None
    """Maximum of all; None: the limits of `store.glance` for each group."""
    absolute: bool
    """Whether times are dates."""

    def print(self) -> None:
        """Print the tasks; on a terminal also what hinders them and how many there are.

        Without a limit they fit a terminal, so that what runs is not scrolled away.
        """
        if self.wanted.oldest_first or (self.limit or 0) > MOST_AT_ONCE:
            self._print_by_age(replace(self.wanted, limit=self.limit or LIMIT))
            return
        columns, height = shutil.get_terminal_size()
        is_drawn = sys.stdout.isatty()
        room = MOST_AT_ONCE if self.limit or not is_drawn else max(height - 1, LEAST)
        found, lines = self._frame(columns, room)
        if not found.seen:
            report_none(self.client, self.wanted)
            return
        if not is_drawn:
            lines = lines[: len(found.seen) + 1]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        if not is_drawn and (more := _rest_of(found)) is not None:
            click.echo(f"dispatcher: {more}", err=True)

    def watch(self) -> None:
        """Draw them again and again, as many as the terminal shows, until Ctrl-C."""
        click.clear()
        with suppress(KeyboardInterrupt):
            while True:
                columns, height = shutil.get_terminal_size()
                try:
                    _, lines = self._frame(columns, height - 1)
                except StoreUnavailable as error:
                    lines = [tables.cut(render.line(f"dispatcher: {error}"), columns)]
                sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
                sys.stdout.flush()
                time.sleep(INTERVAL)

    def _frame(self, columns: int, height: int) -> tuple[Glance, list[str]]:
        """Return tasks, and at most `height` lines that show them, with the last lines."""
        found, standing = self._look(height), self.client.standing()
        below = _last_lines(found, standing, columns)
        while (room := max(1, height - len(below) - 1)) < len(found.seen):
            found = self._look(room)
            below = _last_lines(found, standing, columns)
        return found, [*self._rows(found.seen, standing), *below][:height]

    def _look(self, room: int) -> Glance:
        """Return the tasks to show: by indexes if only states and a queue are wanted."""
        wanted, limit = self.wanted, self.limit
        if wanted.states is not None and limit is None:
            limit = LIMIT
        if wanted != TaskFilter(states=wanted.states, queue=wanted.queue):
            return search(self.client.store, wanted, limit=limit, room=room)
        states, queue = wanted.states, wanted.queue
        return at_a_glance(self.client.store, states=states, queue=queue, limit=limit, room=room)

    def _print_by_age(self, wanted: TaskFilter) -> None:
        found = iter(each_with_run(self.client.store, replace(wanted, limit=wanted.limit + 1)))
        first = list(islice(found, 1))
        if not first:
            report_none(self.client, wanted)
            return
        shown = chain(first, islice(found, wanted.limit - 1))
        seen = (Seen(task=task, run=run, before=None) for task, run in shown)
        self._print_rows(seen, self.client.standing())
        if next(found, None) is not None:
            report_more(self.client, wanted)

    def _print_rows(self, seen: Iterable[Seen], standing: Standing) -> None:
        sys.stdout.write("".join(f"{line}\n" for line in self._rows(seen, standing)))
        sys.stdout.flush()

    def _rows(self, seen: Iterable[Seen], standing: Standing) -> list[str]:
        view = glance.View(
            standing=standing,
            obstacle=glance.obstacles(standing),
            output_dir=self.client.config.output_dir,
            absolute=self.absolute,
        )
        return tables.table(
            glance.HEADINGS,
            (glance.row(one, view) for one in seen),
            spare=glance.SPARE,
            readable=glance.READABLE,
            alike=glance.ALIKE,
        )


def report_none(client: Client, wanted: TaskFilter) -> None:
    """Report on stderr that no task matches, how many others there are, or the nearest queue."""
    queue, where = wanted.queue, ""
    if queue is not None:
        known = client.queues()
        where = f" in queue {queue!r}" + ("" if queue in known else did_you_mean(queue, known))
    counts = client.counts()
    others = sum(sum(states.values()) for name, states in counts.items() if queue in (None, name))
    none = f"no tasks{where}"
    if others:
        none = (
            f"no task{where} {_unmatched(wanted)} ({others} {'other' if others == 1 else 'others'})"
        )
    click.echo(f"dispatcher: {none}", err=True)


def _unmatched(wanted: TaskFilter) -> str:
    """Return what a filter wants and no task does: "is ready", "matches and is ready"."""
    by_state = TaskFilter(states=wanted.states, queue=wanted.queue)
    is_only_by_state = replace(wanted, limit=by_state.limit, oldest_first=False) == by_state
    parts = [] if is_only_by_state else ["matches"]
    if wanted.states is not None:
        names = " or ".join(state for state in TaskState if state in wanted.states)
        parts.append(f"is {names}")
    return " and ".join(parts)


def report_more(client: Client, wanted: TaskFilter) -> None:
    """Report on stderr that there are more tasks than a filter's limit, and how many if known."""
    counted = TaskFilter(states=wanted.states, queue=wanted.queue, limit=wanted.limit)
    total = None
    if replace(wanted, oldest_first=False) == counted:
        total = sum(
            count
            for queue, states in client.counts().items()
            for state, count in states.items()
            if wanted.queue in (None, queue) and (wanted.states is None or state in wanted.states)
        )
    click.echo(f"dispatcher: {_more(wanted.limit, total)}", err=True)


def _more(shown: int, total: int | None) -> str:
    rest = " shown, and there are more" if total is None else f" of {total}"
    return f"{shown}{rest}; --limit N shows more"


def _rest_of(found: Glance) -> str | None:
    """Return that there are more tasks than a glance shows; None: there are not."""
    total = sum(found.counts.values())
    if len(found.seen) >= total and found.is_all:
        return None
    return _more(len(found.seen), total if found.is_all else None)


def _last_lines(found: Glance, standing: Standing, columns: int) -> list[str]:
    """Return the lines below the table on a terminal."""
    lines = [
        *glance.omitted(found),
        *glance.hindrances(found.counts, standing),
        glance.summary(found.counts),
    ]
    if not found.is_all:
        lines[-1] += "; of the newest that match"
    if (more := _rest_of(found)) is not None:
        lines.append(more)
    return [part for line in lines for part in textwrap.wrap(line, columns)]
