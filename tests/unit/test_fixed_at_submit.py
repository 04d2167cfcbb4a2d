"""Kill grace and retry policy are fixed at the submit, whatever is configured where a run ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.config.config import Config, load
from dispatcher.config.environment_file import Variables
from dispatcher.daemon.settings import settings as supervisor_settings
from dispatcher.errors import ConfigError, InvalidTask
from dispatcher.execution import BUILT_IN, KILL_GRACE_MS, RetryPolicy
from dispatcher.model import Outcome, TaskState
from dispatcher.submission import FIXED, TaskOptions, new_task
from dispatcher.supervisor.turn import SupervisorSettings
from tests.command import Command
from tests.simulation import NODE, World

SUBMITTERS = """
[node]
slots = 4
[leases]
kill_grace = "3s"
[retry]
max_deferrals = 1
max_orphans = 1
backoff_min = "40s"
backoff_max = "40s"
cooldown = "100s"
"""

#: Of the host that settles: whatever it would do itself shows.
ANOTHERS = """
[node]
slots = 4
[leases]
kill_grace = "1h"
[retry]
max_deferrals = 0
max_orphans = 0
backoff_min = "1s"
backoff_max = "1s"
cooldown = "1s"
"""

Configured = Callable[[str], Config]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    def read(text: str) -> Config:
        file = tmp_path / "dispatcher.toml"
        file.write_text(text)
        return load(str(file), {"HOME": "/home/somebody"})

    return read


def settings(config: Config) -> SupervisorSettings:
    return supervisor_settings(config, NODE, Variables({}, {}, []), until_idle=False)


def submit(world: World, config: Config, **options: Any) -> int:
    task = new_task(config, ["work"], TaskOptions(cwd="/", **options))
    with world.store.transaction() as now:
        return world.store.submit([task], now=now)[0].task_id


def waits(world: World, task_id: int) -> float:
    """Return the seconds until a task is due."""
    assert TaskState.SCHEDULED is world.state(task_id)
    return (world.task(task_id).run_at - world.now()) / 1000


@pytest.fixture
def elsewhere(configured: Configured) -> World:
    """A node that is configured differently from the submitter of its tasks."""
    return World(settings=settings(configured(ANOTHERS)))


def test_a_daemon_with_another_configuration_waits_as_the_submitters_does(
    elsewhere: World, configured: Configured
) -> None:
    failed, deferred = (submit(elsewhere, configured(SUBMITTERS)) for _ in "12")
    elsewhere.start()
    elsewhere.gone(failed, 1)
    elsewhere.gone(deferred, 75)

    assert 20 <= waits(elsewhere, failed) <= 40
    assert 100 == waits(elsewhere, deferred)
    assert "deferral 1 of 1" in elsewhere.task(deferred).reason


def test_a_reload_between_submit_and_settle_changes_nothing(configured: Configured) -> None:
    before, after = configured(SUBMITTERS), configured(ANOTHERS)
    world = World(settings=settings(before))
    waiting, running = submit(world, before, delay_ms=1_000), submit(world, before)
    world.start()
    world.supervisor.reconfigure(settings(after))
    world.run_for(1)

    for task_id in (waiting, running):
        world.gone(task_id, 75)

    assert [100, 100] == [waits(world, task_id) for task_id in (waiting, running)]
    assert [3.0, 3.0] == [start.kill_grace for start in world.executor.starts]


@pytest.mark.parametrize("word", ["orphaned", "deferred"])
def test_a_task_is_held_by_the_budgets_of_its_submit_and_no_earlier(
    elsewhere: World, configured: Configured, word: str
) -> None:
    task_id = submit(elsewhere, configured(SUBMITTERS))
    elsewhere.start()
    states = []
    for _ in range(2):
        if word == "deferred":
            elsewhere.gone(task_id, 75)
        else:
            elsewhere.executor.die()
            elsewhere.executor.greet()
            elsewhere.tick()
        states.append(elsewhere.state(task_id))
        elsewhere.run_for(100)

    assert states[0] is not TaskState.HELD
    task = elsewhere.task(task_id)
    assert (TaskState.HELD, f"{word} more than 1 times") == (
        *(task.state, task.reason.partition(":")[0]),
    )


def test_another_node_that_settles_a_claim_accounts_as_the_submitter_decided(
    elsewhere: World, configured: Configured
) -> None:
    """As after a takeover: the run's own node is gone."""
    submitters = configured(SUBMITTERS)
    first, second = (submit(elsewhere, submitters, queue="far") for _ in "12")
    with elsewhere.store.transaction() as now:
        elsewhere.store.claim("far", limit=2, node="far", output_dir="/far", now=now)
        for task_id, outcome in ((first, Outcome.ORPHANED), (second, Outcome.TIMED_OUT)):
            uid = elsewhere.store.runs(task_id)[0].uid
            assert elsewhere.store.begin_ending(uid, outcome, "its node is gone", now=now)
    elsewhere.start()

    assert 1 == elsewhere.task(first).orphans
    assert elsewhere.state(first) is not TaskState.HELD
    assert 20 <= waits(elsewhere, second) <= 40


def test_a_local_claim_is_settled_as_submitted_by_a_command_with_another_configuration(
    command: Command,
) -> None:
    command.configure(SUBMITTERS.removeprefix("\n[node]\n"))
    with command.client() as client:
        task_id = client.submit(command=["work"]).task_id
        claim = client.claim()
        assert claim is not None
    command.configure(ANOTHERS.removeprefix("\n[node]\n"))
    with command.client() as client:
        client.fail(task_id, "no disk", lock=claim.lock)
        task, (run,) = client.task(task_id), client.runs(task_id)

    assert task is not None
    assert run.ended_at is not None
    assert TaskState.SCHEDULED is task.state
    assert 20_000 <= task.run_at - run.ended_at <= 40_000


def test_what_becomes_of_an_ending_run_is_predicted_by_its_own_policy(command: Command) -> None:
    command.configure("[retry]\nmax_orphans = 0")
    with command.client() as client:
        task_id = client.submit(command=["work"], queue="q").task_id
        with client.store.transaction() as now:
            (claim,) = client.store.claim("q", limit=1, node="n", output_dir="/o", now=now)
            client.store.begin_ending(claim.run_uid, Outcome.ORPHANED, "it was lost", now=now)
    command.configure("[retry]\nmax_orphans = 9")

    with command.client() as client:
        ahead = client.outlook(task_id)
        assert ahead is not None
        assert TaskState.HELD is ahead.state
        client.release(task_id)
        ahead = client.outlook(task_id)
        assert ahead is not None
        assert TaskState.READY is ahead.state


# What a submit stores ----------------------------------------------------------------------------


def stored(task: Any) -> dict[str, int]:
    return {name: value for name in FIXED if (value := getattr(task, name)) is not None}


@pytest.mark.parametrize("text", ["", '[leases]\nkill_grace = "10s"\n[retry]\ncooldown = "60s"'])
def test_a_task_with_the_built_in_policy_stores_nothing(configured: Configured, text: str) -> None:
    options = TaskOptions(cwd="/", max_orphans=BUILT_IN.max_orphans, kill_grace_ms=KILL_GRACE_MS)

    assert {} == stored(new_task(configured(text), ["true"], TaskOptions(cwd="/")))
    assert {} == stored(new_task(configured(text), ["true"], options))


def test_what_is_given_built_in_is_not_what_is_configured(configured: Configured) -> None:
    task = new_task(configured(SUBMITTERS), ["true"], TaskOptions(cwd="/", max_orphans=5))

    assert "max_orphans" not in stored(task)
    assert 1 == stored(task)["max_deferrals"]


LAYERS = """
[retry]
cooldown = "1s"
max_orphans = 1
[queues.q]
cooldown = "2s"
max_deferrals = 2
backoff_min = "2s"
[profiles.p]
command = ["true"]
queue = "q"
cooldown = "3s"
kill_grace = "3s"
backoff_max = "3s"
"""


def test_the_submit_then_the_profile_then_the_queue_then_the_file_decide(
    configured: Configured,
) -> None:
    config = configured(LAYERS)
    queue = {"cooldown_ms": 2_000, "max_deferrals": 2, "max_orphans": 1, "backoff_min_ms": 2_000}
    profile = {**queue, "cooldown_ms": 3_000, "kill_grace_ms": 3_000, "backoff_max_ms": 3_000}
    given = TaskOptions(cwd="/", queue="q")

    assert queue == stored(new_task(config, ["true"], given))
    assert profile == stored(new_task(config, [], {"profile": "p"}))
    assert {**profile, "cooldown_ms": 0} == stored(
        new_task(config, [], {"profile": "p", "cooldown_ms": 0})
    )


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ({"backoff_min_ms": 3_600_000}, (3_600_000, 3_600_000)),
        ({"backoff_max_ms": 2_000}, (2_000, 2_000)),
        ({"backoff_min_ms": 50_000}, (50_000, 60_000)),
        ({"backoff_max_ms": 900_000}, (5_000, None)),
    ],
)
def test_a_bound_of_the_back_off_that_is_configured_gives_way_to_one_that_is_given(
    configured: Configured, given: Any, bounds: tuple[int | None, int | None]
) -> None:
    config = configured('[retry]\nbackoff_min = "5s"\nbackoff_max = "1m"')

    task = new_task(config, ["true"], TaskOptions(cwd="/", **given))

    assert bounds == (task.backoff_min_ms, task.backoff_max_ms)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backoff_min_ms": 2, "backoff_max_ms": 1}, "backoff_min: 2ms is more than backoff_max"),
        ({"max_orphans": -1}, "max_orphans: must be from 0 to 2147483647, not -1"),
        ({"max_deferrals": 2**31}, "max_deferrals: must be from 0 to 2147483647"),
        ({"cooldown_ms": 10**12}, "cooldown: .* is longer than"),
    ],
)
def test_an_impossible_policy_is_refused_at_the_submit(
    configured: Configured, given: Any, message: str
) -> None:
    with pytest.raises(InvalidTask, match=message):
        new_task(configured(""), ["true"], TaskOptions(cwd="/", **given))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[retry]\ncooldown = "3651d"', "retry.cooldown: .* is longer than"),
        ('[leases]\nkill_grace = "3651d"', "leases.kill_grace: .* is longer than"),
        ('[queues.q]\nbackoff_max = "3651d"', "queues.q.backoff_max: .* is longer than"),
        (
            '[queues.q]\nbackoff_min = "2s"\nbackoff_max = "1s"',
            r"queues.q.backoff_min: 2s is more than backoff_max \(1s\); lower it or raise that",
        ),
        ("[queues.q]\nmax_orphans = -1", "queues.q.max_orphans"),
    ],
)
def test_a_configuration_that_no_submit_could_use_is_refused(
    configured: Configured, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(text)


def test_a_task_of_before_has_the_built_in_policy() -> None:
    """Its row holds none, as no older schema has the columns."""
    world = World()
    task_id = world.submit(**dict.fromkeys(FIXED))
    uid = world.start().uid(task_id)

    with world.store.snapshot():
        run = world.store.open_run(uid)
    assert run is not None
    assert (RetryPolicy(), 10_000) == (run.retry, run.kill_grace_ms)
