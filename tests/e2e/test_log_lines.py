"""The log of a daemon: every line in form, in the catalogue, and without secrets."""

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from dispatcher.new_task import NewTask
from dispatcher.store.open import open_store
from tests.e2e.helpers import expect_settled, listed, shell, stored, submit_all
from tests.e2e.lines import expect_in_form, secrets_of
from tests.e2e.world import Daemon, World

WAIT = "while [ ! -e go ]; do sleep 0.02; done"


@pytest.fixture
def history(world: World) -> list[Daemon]:
    """Two daemons' lives with everything in them that can be had in two seconds."""
    (world.directory / "payload").write_text('"payload-secret"')
    worker_stub = [sys.executable, "-m", "worker_stub"]
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
            {"command": [*worker_stub, "heartbeat"]},
            {"command": [*worker_stub, "succeed"]},
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
        daemon.expect("run.settled", task_id=alive, outcome="succeeded")
    return daemons


def test_r28_r67_every_line_is_of_the_catalogue_and_nothing_written_shows_a_secret(
    world: World, history: list[Daemon]
) -> None:
    """Every world's lines are looked at at its end (tests/e2e/lines.py): here, that it looks."""
    for daemon in history:
        events = daemon.events()
        assert len(events) == daemon.output().count("\n")
        assert list(range(1, len(events) + 1)) == [event["sequence"] for event in events]
    assert set() == RICH - {event["event"] for daemon in history for event in daemon.events()}
    executors = (world.state_dir / "executor.log").read_text().splitlines()
    assert set() == RICH_OF_EXECUTORS - {json.loads(line)["event"] for line in executors}
    expect_in_form(world.directory)

    locks = [lock for (lock,) in stored(world, "SELECT lock FROM runs")]
    assert len(set(locks)) == len(locks) > 10
    written = _everything_written(world, history)
    assert {} == {
        where: secret
        for where, text in written.items()
        for secret in (*locks, "env-secret", "payload-secret")
        if secret in text and (where, secret) not in ALLOWED
    }


#: Events that must be in the log, so that an empty log fails.
RICH = {
    "daemon.started", "daemon.stopping", "daemon.stopped", "executor.started",
    "executor.connected", "executor.lost", "task.claimed", "run.started",
    "run.ending", "run.settled", "run.reconciled", "worker.leftover_ended",
    "daemon.signalled", "lease.renewed", "run.declared",
}  # fmt: skip
RICH_OF_EXECUTORS = {
    "executor.started", "executor.left", "daemon.greeted", "daemon.dropped", "run.ending",
    "run.start_failed", "run.escalated", "run.inherited", "worker.leftover_ended",
}  # fmt: skip

#: A payload is shown with its task, on purpose; `cat` wrote it to its output itself.
ALLOWED = {("show --json", "payload-secret"), ("show", "payload-secret")}


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"event": "run.strated"}, "not in the catalogue"),
        ({"event": "daemon.stopped", "level": "error"}, "is error, not info"),
        ({"event": "daemon.stopped", "sequence": 3}, "lines lost"),
        ({"event": "daemon.stopped", "surprise": 1}, "has surprise"),
        ({"event": "daemon.signalled"}, "lacks signal"),
        ({"event": "daemon.signalled", "signal": "{lock}"}, "shows"),
        ({"event": "daemon.signalled", "signal": "{env}"}, "shows"),
        ({"event": "daemon.signalled", "signal": "{payload}"}, "shows"),
    ],
)
def test_a_line_out_of_form_or_with_a_secret_is_found(
    finished: Path, line: dict[str, object], message: str
) -> None:
    secrets = dict(zip(("lock", "env", "payload"), secrets_of(finished / "tasks.db"), strict=True))
    right = {"timestamp": "", "level": "info", "sequence": 1}
    text = json.dumps({**right, **line}).replace("{lock}", secrets["lock"])
    text = text.replace("{env}", secrets["env"]).replace("{payload}", secrets["payload"])
    (finished / "daemon-1.log").write_text(text + "\n")

    with pytest.raises(AssertionError, match=message):
        expect_in_form(finished)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A store with one claimed task that has an environment and a payload."""
    store = open_store(f"sqlite://{tmp_path}/tasks.db", state_dir=tmp_path, patience=1.0)
    task = NewTask(
        command=("true",),
        max_attempts=1,
        lease_ttl_ms=1000,
        env={"TOKEN": "env-secret"},
        payload='{"key": "payload-secret"}',
    )
    with store.transaction() as now:
        store.submit([task], now=now)
        [_] = store.claim("default", limit=1, node="n", output_dir="/o", now=now)
    store.close()
    return tmp_path
