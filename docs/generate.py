"""Writes the pages and files that are made from the code: `make docs`. A test compares them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from dispatcher import logs, metrics, reference

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.mistakes.table import CANNOT_START, MISTAKES  # noqa: E402 - below the project's root

_EVENTS = """\
# Log events

<!-- Made by `make docs` from dispatcher/logs.py: change the texts there. -->

Each line of the log is one JSON object: `timestamp`, `level`, `event`, `sequence` (a gap is a lost
line), `node`, and what the event is about: `task_id`, `run_id`, `attempt`, `fence`, `queue`, `pid`,
and numbers with their unit in the name. An event keeps its name and meaning between releases.

| event | means |
|---|---|
"""


_MISTAKES = """\
# Mistakes

<!-- Made by `make docs` from tests/mistakes: a test makes each mistake and compares. -->

What people get wrong, and what they are told: one line for each mistake on stderr, which names the
thing and the remedy, and an exit code: 1 not so, 2 usage, 69 the store does not answer, 75 somebody
else holds it, 78 the configuration or the store cannot be used, 79 the lease is lost.
"""

_CANNOT_START = """
## Commands that cannot be started

They are accepted, since only the host that runs them can tell; the run ends as `spawn_failed`,
which costs an attempt, and its reason stands in `show`, `why` and `list`.

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
            ("| mistake | told | exit |", "|---|---|---|", *rows)
        )
        page += "\n"
    rows = [f"| {one.name} | {_cell(one.told)} |\n" for one in CANNOT_START]
    return page + _CANNOT_START + "".join(rows)


def _cell(text: str) -> str:
    """Return a message as code in a cell of a table; what is long for length's sake is cut."""
    shown = re.sub("x{50,}", "x…x", text).replace("|", "\\|")
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}"


def generated() -> Mapping[Path, str]:
    """Return what each generated file has to hold."""
    schema = json.dumps(reference.schema(), indent=2) + "\n"
    events = "".join(f"| `{name}` | {text} |\n" for name, text in sorted(logs.CATALOGUE.items()))
    return {
        ROOT / "docs" / "configuration.md": reference.page(),
        ROOT / "docs" / "events.md": _EVENTS + events,
        ROOT / "docs" / "mistakes.md": _mistakes(),
        ROOT / "docs" / "metrics.md": metrics.page(),
        ROOT / "docs" / "dispatcher.schema.json": schema,
        ROOT / "systemd" / "dispatcher.toml": reference.commented_file(external=True),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
