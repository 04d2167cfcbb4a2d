"""Checks of the logs of every world's daemons and executors: form, order, no secret.

Each end-to-end test checks it too: a world calls it at its end.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite3

from dispatcher.logs.catalogue import DAEMON, EXECUTOR, Event

#: Shorter texts of an environment or payload are found by chance.
LEAST_SECRET = 8


def expect_in_form(directory: Path) -> None:
    """Fail unless every line below a world's directory matches the catalogue and shows no secret.

    No line of a process is missing between its first and its last.
    """
    daemons = sorted(directory.glob("daemon-*.log"))
    executors = [*directory.rglob("executor.log"), *directory.glob("external*.log")]
    for file in daemons:
        _expect_lines(file, DAEMON, begins="daemon.started")
    for file in executors:
        _expect_lines(file, EXECUTOR, begins="executor.")
    secrets = [secret for base in directory.rglob("tasks.db") for secret in secrets_of(base)]
    for file in (*daemons, *executors, *directory.rglob("executor.journal")):
        text = file.read_text("utf-8", "replace")
        shown = [secret for secret in secrets if secret in text]
        assert [] == shown, f"{file.name} shows {shown}"


def _expect_lines(file: Path, entries: Mapping[str, Event], *, begins: str) -> None:
    before = 0
    for line in file.read_text("utf-8", "replace").splitlines(keepends=True):
        if not line.startswith("{") or not line.endswith("\n"):
            assert "Traceback" not in line, f"{file.name}: {line}"
            continue  # an error message for people, or a line cut short by a kill
        event: dict[str, Any] = json.loads(line)
        assert event["event"] in entries, f"{file.name}: not in the catalogue: {line}"
        mistakes = entries[event["event"]].mistakes(event)
        assert [] == mistakes, f"{file.name}: {mistakes} in {line}"
        if event["sequence"] != before + 1:
            # Several executors write to one file, each from 1; who finds the lock taken in between.
            assert begins.startswith("executor"), f"{file.name}: lines lost before {line}"
            assert 1 in (event["sequence"], before), f"{file.name}: lines lost before {line}"
        before = event["sequence"]


def secrets_of(database: Path) -> Iterator[str]:
    """Yield the locks of a store, and what is long enough of its environments and payloads.

    What a task shows itself is none: its command, its directory. Nor is the payload of a hook's
    task, which is what the store shows of another. A store that is damaged or in
    another's hands has none that can be known.
    """
    with (
        tempfile.TemporaryDirectory() as aside,  # to open it leaves files next to it
        suppress(sqlite3.DatabaseError),
        closing(sqlite3.connect(_copied(database, Path(aside)))) as store,
    ):
        for (lock,) in store.execute("SELECT lock FROM runs WHERE lock IS NOT NULL").fetchall():
            yield lock
        for command, cwd, env, payload in store.execute(
            "SELECT command, cwd, env, payload FROM tasks"
            " LEFT JOIN payloads ON payloads.task_id = tasks.id AND tasks.origin IS NULL"
        ).fetchall():
            texts = [*json.loads(env or "{}").values(), *_texts(json.loads(payload or "null"))]
            for text in texts:
                if len(text) >= LEAST_SECRET and text not in command and text not in (cwd or ""):
                    yield text


def _copied(database: Path, to: Path) -> Path:
    for file in database.parent.glob(f"{database.name}*"):
        if file.is_file() and not file.name.endswith(".lock"):
            shutil.copy(file, to)
    return to / database.name


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
