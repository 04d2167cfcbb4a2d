"""Writes the pages and files that are made from the code: `make docs`. A test compares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dispatcher import logs, reference

ROOT = Path(__file__).parent.parent

_EVENTS = """\
# Log events

<!-- Made by `make docs` from dispatcher/logs.py: change the texts there. -->

Each line of the log is one JSON object: `timestamp`, `level`, `event`, `sequence` (a gap is a lost
line), `node`, and what the event is about: `task_id`, `run_id`, `attempt`, `fence`, `queue`, `pid`,
and numbers with their unit in the name. An event keeps its name and meaning between releases.

| event | means |
|---|---|
"""


def generated() -> Mapping[Path, str]:
    """Return what each generated file has to hold."""
    schema = json.dumps(reference.schema(), indent=2) + "\n"
    events = "".join(f"| `{name}` | {text} |\n" for name, text in sorted(logs.CATALOGUE.items()))
    return {
        ROOT / "docs" / "configuration.md": reference.page(),
        ROOT / "docs" / "events.md": _EVENTS + events,
        ROOT / "docs" / "dispatcher.schema.json": schema,
        ROOT / "systemd" / "dispatcher.toml": reference.commented_file(external=True),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
