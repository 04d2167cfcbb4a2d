"""What a daemon says: every line in form, in the catalogue, and without secrets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pytest

from dispatcher.logs import CATALOGUE
from tests.e2e.helpers import expect_settled, listed, shell, stored, submit_all
from tests.e2e.world import Daemon, World

pytestmark = pytest.mark.timeout(90)

WAIT = "while [ ! -e go ]; do sleep 0.02; done"


@pytest.fixture
def history(world: World) -> list[Daemon]:
    """Two daemons' lives with everything in them that can be had in two seconds."""
    (world.directory / "payload").write_text('"payload-secret"')
    daemons = []
    with world.daemon() as daemon:
        daemons.append(daemon)
        ids = submit_all(
            world,
            {"command": ["true"]},
            {"command": ["false"], "max_attempts": 2},
            {"command": ["nonesuch"], "max_attempts": 1},
            {"command": shell("exit 75"), "max_attempts": 1},
            {"command": shell("(sleep 1000 &); exit 78"), "env": {"TOKEN": "env-secret"}},
            {"command": ["cat"], "payload": "payload-secret"},
        )
        expect_settled(daemon, ids)
        cancelled, killed, alive = submit_all(
            world, {"command": ["sleep", "1000"]}, *[{"command": shell(WAIT)}] * 2
        )
        for task_id in (cancelled, killed, alive):
            daemon.expect("run.started", task_id=task_id)
        world.cli("cancel", cancelled)
        expect_settled(daemon, [cancelled])
        daemon.kill()
    with world.daemon() as daemon:
        daemons.append(daemon)
        daemon.expect("run.reconciled", task_id=alive)
        shutil.copy(world.state_dir / "executor.journal", world.directory / "first.journal")
        daemon.executor().kill()
        daemon.expect("run.settled", task_id=killed, outcome="orphaned")
        (world.directory / "go").touch()
        daemon.expect("run.settled", task_id=alive, outcome="succeeded", within=15.0)
    return daemons


def test_every_line_of_a_daemon_is_a_json_object_of_the_catalogue_and_none_shows_a_secret(
    world: World, history: list[Daemon]
) -> None:
    """R-28, R-67."""
    for daemon in history:
        events = daemon.events()
        assert len(events) == daemon.output().count("\n")
        assert list(range(1, len(events) + 1)) == [event["sequence"] for event in events]
        for event in events:
            _assert_in_form(event)
    seen = {event["event"] for daemon in history for event in daemon.events()}
    assert RICH <= seen

    locks = [lock for (lock,) in stored(world, "SELECT lock FROM runs")]
    assert len(set(locks)) == len(locks) > 10
    written = _everything_written(world, history)
    assert {} == {
        where: secret
        for where, text in written.items()
        for secret in (*locks, "env-secret", "payload-secret")
        if secret in text and (where, secret) not in ALLOWED
    }


#: What must have happened, lest a scan of silence count.
RICH = {
    "daemon.started", "daemon.stopping", "daemon.stopped", "executor.started",
    "executor.connected", "executor.lost", "task.claimed", "run.started",
    "run.ending", "run.settled", "run.reconciled", "worker.leftover_ended",
}  # fmt: skip

#: A payload is shown with its task, on purpose; `cat` wrote it to its output itself.
ALLOWED = {("show --json", "payload-secret"), ("show", "payload-secret")}


def _assert_in_form(event: dict[str, Any]) -> None:
    assert event["event"] in CATALOGUE
    assert event["level"] in ("debug", "info", "warning", "error")
    assert event["timestamp"].endswith("Z")
    assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
    noun = event["event"].partition(".")[0]
    if noun in ("task", "run"):
        missing = {"task_id", "run_id", "attempt", "fence", "queue", "pid"} - event.keys()
        assert set() == missing, event


def _everything_written(world: World, history: Iterable[Daemon]) -> dict[str, str]:
    texts = {f"daemon {number}": d.output() for number, d in enumerate(history)}
    for file in (
        world.state_dir / "executor.log",
        world.state_dir / "executor.journal",
        world.directory / "first.journal",  # its successor's was made anew
    ):
        texts[file.name] = file.read_text()
    ids = list(listed(world))
    verbs = {"list": ["list"], "list --json": ["list", "--json"], "status": ["status", "--json"]}
    texts |= {name: world.cli(*verb).stdout for name, verb in verbs.items()}
    for task_id in ids:
        texts["show"] = texts.get("show", "") + world.cli("show", task_id).stdout
        shown = world.cli("show", task_id, "--json").stdout
        assert json.loads(shown)["id"] == task_id
        texts["show --json"] = texts.get("show --json", "") + shown
    return texts
