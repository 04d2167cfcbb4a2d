"""Hooks: their configuration, their tasks, and what the daemon records for them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher import hook_tasks, wire
from dispatcher.calendar import Calendar
from dispatcher.config.config import Config, Mistaken, load
from dispatcher.config.task_settings import HooksSection
from dispatcher.events import Ledger
from dispatcher.hook_tasks import HookTasks, hooks_of
from dispatcher.hooks import KINDS, STATES, Happened, Hook
from dispatcher.model import Outcome, TaskState
from dispatcher.times import StoreTime
from tests.command import Command
from tests.simulation import World

FILE = """
[profiles.notify]
command = ["notify", "{event}", "{task_id}"]
queue = "hooks"
[profiles.code]
command = ["notify", "{exit_code}"]
[profiles.secret]
command = ["notify"]
env_file = "/nonexistent/secrets.env"
[profiles.wrong]
command = []
"""

NOW = StoreTime(1_700_000_000_123)
CALENDAR = Calendar(now=NOW, ahead_ms=0)

FAILED = Happened(
    id=17,
    kind="settle",
    at=NOW,
    subject=None,
    who="node:n",
    before=TaskState.RUNNING,
    after=TaskState.FAILED,
    event_reason="exit code 3 (attempt 3 of 3)",
    task_id=42,
    queue="nightly",
    profile=None,
    labels={"name": "backup", "team": "b"},
    fence=3,
    outcome=Outcome.FAILED,
    exit_code=3,
    signal=None,
    output_path="/out/x.log",
    hostname="web-1",
)
PAUSED = Happened(
    id=18,
    kind="pause",
    at=NOW,
    subject="builds",
    who="user:0:root",
    before=None,
    after=None,
    event_reason="upgrade",
    task_id=None,
    queue=None,
    profile=None,
    labels={},
    fence=None,
    outcome=None,
    exit_code=None,
    signal=None,
    output_path=None,
    hostname=None,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dispatcher.toml"


def read(file: Path, hooks: str) -> Config:
    file.write_text(f"{FILE}[hooks]\n{hooks}")
    return load(str(file), {"HOME": "/home/somebody"})


def hooks(file: Path, text: str, complaints: list[tuple[object, ...]]) -> HookTasks:
    found = hooks_of(read(file, text), lambda *facts: complaints.append(facts))
    assert found is not None
    return found


def test_each_hook_is_a_key_and_is_of_a_state_or_a_kind() -> None:
    assert [hook.value for hook in Hook] == list(HooksSection.__struct_fields__)
    assert {*Hook} == {*STATES} | {*KINDS}


def test_a_hooks_task_is_one_of_its_profile_with_the_event_as_payload(file: Path) -> None:
    (task,) = hooks(file, "failed = 'notify'", []).tasks([FAILED], CALENDAR)

    assert ("notify", "failed", "42") == task.command
    assert ("notify", "hooks", "hook:failed", "/") == (
        task.profile,
        task.queue,
        task.origin,
        task.cwd,
    )
    assert {"name": "hook-failed"} == task.labels
    assert task.environment is None
    assert {
        "event": "failed",
        "event_id": 17,
        "time": "2023-11-14T22:13:20.123Z",
        "host": "web-1",
        "who": "node:n",
        "reason": "exit code 3 (attempt 3 of 3)",
        "task_id": 42,
        "name": "backup",
        "queue": "nightly",
        "profile": "",
        "labels": {"name": "backup", "team": "b"},
        "state": "failed",
        "fence": 3,
        "outcome": "failed",
        "exit_code": 3,
        "signal": None,
        "output_path": "/out/x.log",
    } == json.loads(str(task.payload))


def test_an_event_of_no_task_names_its_subject(file: Path) -> None:
    complaints: list[tuple[object, ...]] = []
    file_hooks = hooks(file, "queue_paused = 'notify'", complaints)
    assert [] == file_hooks.tasks([PAUSED], CALENDAR)
    ((hook, profile, task_id, why),) = complaints
    assert (Hook.QUEUE_PAUSED, "notify", None) == (hook, profile, task_id)
    assert "payload: has no 'task_id'" in str(why)
    facts = hook_tasks._facts(Hook.QUEUE_PAUSED, PAUSED, CALENDAR)
    assert ("builds", "upgrade", 18) == (facts["subject"], facts["reason"], facts["event_id"])


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ("code", "payload: 'exit_code' must be a text, a number"),
        ("secret", "profile: the env_file of 'secret': /nonexistent/secrets.env is missing"),
        ("wrong", "profile: 'wrong' has a mistake in"),
    ],
)
def test_a_hook_with_a_mistake_has_no_task_and_says_why(file: Path, profile: str, why: str) -> None:
    complaints: list[tuple[object, ...]] = []
    failed = replace(FAILED, exit_code=None)
    one = hooks(file, f"failed = {profile!r}", complaints)

    assert [] == one.tasks([failed], CALENDAR)
    ((*facts, reason),) = complaints
    assert [Hook.FAILED, profile, 42] == facts
    assert why in str(reason)


def test_a_configuration_without_hooks_has_none(file: Path) -> None:
    file.write_text(FILE)
    assert hooks_of(load(str(file), {}), print) is None


def test_only_what_has_a_hook_is_followed(file: Path) -> None:
    found = hooks(file, "held = 'notify'\nnode_paused = 'notify'", [])

    assert ({TaskState.HELD}, {"node_paused"}) == (found.states, found.kinds)


def test_an_unknown_profile_is_a_mistake_with_its_remedy(file: Path) -> None:
    with pytest.raises(Mistaken) as caught:
        read(file, "failed = 'notifi'\nheld = 'wrong'")

    assert (
        "hooks.failed: there is no profile 'notifi'; add [profiles.notifi], or correct the name"
        in str(caught.value)
    )
    assert "hooks.held" not in str(caught.value), "it is the profile that has the mistake"


def test_an_operators_verb_has_the_hooks_of_the_commands_configuration(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    command.configure(f"{FILE}[hooks]\nheld = 'notify'\nqueue_paused = 'notify'\n")
    command("submit", "--", "true")

    command("hold", 1, "--reason", "why")
    assert "" == caplog.text
    command("pause", "q", "--reason", "why")

    assert "dispatcher: hook queue_paused: profile 'notify' makes no task: payload: has no" in (
        caplog.text
    )
    shown = command("show", 2, "--json").json
    assert ("hooks", ["notify", "held", "1"], "hook:held") == (
        shown["queue"],
        shown["command"],
        shown["origin"],
    )
    command("show", 3, exits=1)


@pytest.fixture
def world() -> Iterator[World]:
    return World()


def recorded(world: World, kind: str) -> list[tuple[int | None, str | None]]:
    with world.store.snapshot():
        found = world.store.last_events(Ledger.EVENTS, before=2**62, limit=99)
    return [(one.task_id, one.reason) for one in found if one.kind == kind]


def test_a_pause_of_the_node_is_recorded_once_until_a_worker_could_start(world: World) -> None:
    world.submit("true")
    refusal = wire.StartFailed(uid=wire.RunUid(""), fault=wire.Fault.HOST, error="no memory")
    world.executor.refusal = refusal
    world.start()
    world.run_for(30)
    assert [(None, "no memory")] == recorded(world, "node_paused")

    world.executor.refusal = None
    world.run_for(90)
    world.submit("true")
    world.submit("true")
    world.executor.refusal = refusal
    world.run_for(1)
    assert 2 >= len(recorded(world, "node_paused"))


def test_a_run_that_cannot_be_killed_is_recorded_once(world: World) -> None:
    task_id = world.submit("true")
    world.start()
    uid = world.uid(task_id)
    stuck = wire.Changed(uid=uid, state=wire.RunState.UNKILLABLE, reason="disk")
    world.executor.events += [stuck, stuck]
    with capture_logs():
        world.settle_down()
    world.executor.runs[uid] = wire.RunReport(
        uid=uid, state=wire.RunState.UNKILLABLE, pid=1, reason="disk"
    )
    world.restart()

    assert [(task_id, "disk")] == recorded(world, "worker_unkillable")
