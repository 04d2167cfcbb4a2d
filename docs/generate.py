"""Writes the pages and files generated from the code: `make docs`. A test compares them."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from dispatcher import metrics, worker_api
from dispatcher.config import reference
from dispatcher.executor.output import stream
from dispatcher.logs import catalogue, records, repeats
from dispatcher.service.units import NAMES, instanced

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.mistakes.table import CANNOT_START, MISTAKES  # noqa: E402 - below the project's root

_EVENTS = f"""\
# Log events

<!-- Made by `make docs` from dispatcher/logs/catalogue.py: change the texts there. -->

Each line of a log is one JSON object: `timestamp`, `level`, `event`, `sequence` (from 1 in each
process; a gap is a lost line), `node`, and the fields below, numbers with their unit in the name.
An event keeps its name and meaning between releases. No line holds a lock, an environment or a
payload. On a terminal the daemon's lines are formatted for people; in systemd's journal they are
[records](journal.md).

Events with a ↻ may repeat while a fault lasts. After {repeats.BURST} equal lines at most one in
{repeats.INTERVAL:g} s is written, and `left_out` counts those since the last. `error.ceased`
follows once none has occurred for that long.

"""


_FIELDS = """\
## Fields in systemd's journal

In a record of [systemd's journal](journal.md) a key's field is `DISPATCHER_` and the key in
capitals, except that {renamed}. All fields, with those of worker output:

{fields}
"""


_MISTAKES = """\
# Mistakes

<!-- Made by `make docs` from tests/mistakes: a test makes each mistake and compares. -->

Each mistake gets one line on stderr, which names the thing and the remedy, and an exit code:

- 1: refused, or not found
- 2: usage
- 69: the store does not answer; nothing was written, so try again
- 74: it was written and could not be printed, or may have been written; check before you repeat it
- 75: another process holds it, or the host is in trouble; try again
- 78: the configuration or the store cannot be used
- 79: the lease is lost
"""

_CANNOT_START = """
## Commands that cannot be started

A submit accepts them, since only the host that runs them can check. The run ends as `spawn_failed`,
which costs an attempt; `show`, `why` and `list` give the reason.

| mistake | reason |
|---|---|
"""


def _mistakes() -> str:
    """Return the page of mistakes."""
    page = _MISTAKES
    for group, mistakes in MISTAKES.items():
        rows = [
            f"| {one.name} | {'<br>'.join(map(_cell, one.told.splitlines()))} | {one.exits} |"
            for one in mistakes
        ]
        page += f"\n## {group}\n\n" + "\n".join(
            ("| mistake | message | exit |", "|---|---|---|", *rows)
        )
        page += "\n"
    rows = [f"| {one.name} | {_cell(one.told)} |\n" for one in CANNOT_START]
    return page + _CANNOT_START + "".join(rows)


def _cell(text: str) -> str:
    """Return a message as code in a cell of a table; what is long for length's sake is cut."""
    shown = re.sub("x{50,}", "x…x", text).replace("|", "\\|")
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}"


def _table(title: str, entries: Mapping[str, catalogue.Event]) -> str:
    head = f"## {title}\n\n| event | level | means | fields |\n|---|---|---|---|\n"
    return head + "".join(_row(name, event) for name, event in sorted(entries.items()))


def _row(name: str, event: catalogue.Event) -> str:
    always = [f"`{field}`" for field in event.fields]
    perhaps = [f"`{field}`?" for field in event.optional if field not in event.fields]
    repeats_ = " ↻" if event.same_by is not None else ""
    return (
        f"| `{name}`{repeats_} | {event.level} | {event.meaning} | {' '.join(always + perhaps)} |\n"
    )


def _fields() -> str:
    """Return the names of all fields that a record of the journal may have."""
    entries = (*catalogue.DAEMON.values(), *catalogue.EXECUTOR.values())
    keys = {name for event in entries for name in (*event.fields, *event.optional)}
    keys |= catalogue.EVERY_LINE.keys() | catalogue.SOME_LINES.keys()
    names = sorted(
        {
            *map(records.name_of, keys),
            *worker_api.IDENTITY_VARIABLES,
            stream.LINE_BREAK.decode(),
        }
    )
    renamed = " and ".join(f"`{key}` is `{name}`" for key, name in records.RENAMED.items())
    fields = textwrap.fill(", ".join(f"`{name}`" for name in names), 100)
    return _FIELDS.format(fields=fields, renamed=renamed)


def _templates() -> Mapping[Path, str]:
    """Return the units of which each instance is one, made from those of the only one."""
    shipped = [ROOT / "systemd" / directory / name for directory in ("", "user") for name in NAMES]
    return {
        path.with_stem(
            f"{path.stem}@"
        ): f"# Made by `make docs` from {path.name}: change that one.\n"
        + instanced(path.read_text("utf-8"))
        for path in shipped
    }


def generated() -> Mapping[Path, str]:
    """Return what each generated file has to hold."""
    schema = json.dumps(reference.schema(), indent=2) + "\n"
    daemon = _table("The daemon's", catalogue.DAEMON)
    executor = _table("The executor's", catalogue.EXECUTOR)
    return {
        ROOT / "docs" / "configuration.md": reference.page(),
        ROOT / "docs" / "mistakes.md": _mistakes(),
        ROOT / "docs" / "metrics.md": metrics.page(),
        ROOT / "docs" / "events.md": f"{_EVENTS}{daemon}\n{executor}\n{_fields()}",
        ROOT / "docs" / "dispatcher.schema.json": schema,
        ROOT / "systemd" / "dispatcher.toml": reference.commented_file(reference.PACKAGED),
        **_templates(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
