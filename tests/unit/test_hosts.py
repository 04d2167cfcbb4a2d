"""Hosts that share a store, in virtual time: cut off, back, and the store down for all of them."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.model import Outcome, TaskState
from tests.recorded_logs import expect_catalogued
from tests.simulation import SETTINGS
from tests.unit.hosts import ENDED, GRACE, LIMIT, TAKEN, Host, Hosts

#: What a silent node's claims are left before its last confirmation must have come.
QUARTER = LIMIT / 4


def outcomes(host: Host, task_id: int) -> list[Outcome | None]:
    return [run.outcome for run in host.runs(task_id)]


def lost(logs: list[Any]) -> list[dict[str, Any]]:
    expect_catalogued(logs)
    return [line for line in logs if line["event"] == "claim.lost"]


@pytest.fixture
def hosts() -> Hosts:
    return Hosts(slots=1)


def test_a_node_that_is_cut_off_ends_its_runs_before_another_starts_them(hosts: Hosts) -> None:
    here, there = hosts.all
    here.supervisor.tick([], at=here.at())  # no executor yet: the other claims
    task = here.submit("work")
    there.start()
    here.start()
    assert ([], [task]) == (here.tasks, there.tasks)

    there.road.cut = True
    hosts.run_for(ENDED - QUARTER - 0.1)
    assert [task] == there.tasks
    hosts.run_for(QUARTER + 0.1)
    assert ([], []) == (here.tasks, there.tasks)  # ended, and not started yet
    hosts.run_for(SETTINGS.takeover_margin + 0.1)

    assert [task] == here.tasks
    assert [Outcome.ORPHANED, None] == outcomes(here, task)
    assert (2, 0) == (here.task(task).fence, here.task(task).attempts_used)


def test_a_node_that_is_back_finds_its_claims_gone_says_so_and_goes_on(hosts: Hosts) -> None:
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()
    there.road.cut = True
    hosts.run_for(TAKEN)
    before = here.runs(task)

    with capture_logs() as logs:
        there.road.cut = False
        hosts.run_for(10)

    (line,) = lost(logs)
    assert (task, 1) == (line["task_id"], line["fence"])
    assert before == here.runs(task)  # nothing of it is recorded
    assert {} == there.executor.runs  # and its executor has forgotten it
    assert 0 == there.supervisor.report(at=there.at()).busy
    here.gone(task)
    later = here.submit("work", queue="a"), here.submit("work", queue="b")
    hosts.run_for(2)
    assert sorted(later) == sorted(here.tasks + there.tasks)


def test_what_ended_in_time_is_recorded_by_a_node_that_is_back_in_time(hosts: Hosts) -> None:
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()

    there.road.cut = True
    hosts.run_for(LIMIT / 2)
    there.finish(task)
    hosts.run_for(ENDED - LIMIT / 2 - QUARTER)
    assert TaskState.RUNNING is here.state(task)
    there.road.cut = False
    hosts.run_for(2)

    assert [Outcome.SUCCEEDED] == outcomes(here, task)
    assert 0 == here.runs(task)[0].exit_code


def test_what_ended_is_lost_for_a_node_that_is_back_too_late(hosts: Hosts) -> None:
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()
    there.road.cut = True
    hosts.run_for(1)
    there.finish(task, 0)
    hosts.run_for(TAKEN)

    with capture_logs() as logs:
        there.road.cut = False
        hosts.run_for(10)

    assert [task] == [line["task_id"] for line in lost(logs)]
    assert [Outcome.ORPHANED, None] == outcomes(here, task)
    assert [task] == here.tasks


def test_a_claim_is_also_lost_over_a_commit_whose_answer_was_lost(hosts: Hosts) -> None:
    """The daemon reconciles, and the executor reports a run that somebody else has settled."""
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()
    there.road.loses_answers = True
    hosts.run_for(1)
    there.road.loses_answers, there.road.cut = False, True
    hosts.run_for(TAKEN + QUARTER)

    with capture_logs() as logs:
        there.road.cut = False
        hosts.run_for(10)

    assert [] == there.tasks
    assert [Outcome.ORPHANED, None] == outcomes(here, task)
    assert 1 == len(lost(logs))


def test_a_daemon_that_stands_still_loses_its_claims_too(hosts: Hosts) -> None:
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()

    there.frozen = True
    hosts.run_for(TAKEN)
    assert [task] == here.tasks
    with capture_logs() as logs:
        there.frozen = False
        there.settle_down()
        hosts.run_for(10)

    assert [task] == [line["task_id"] for line in lost(logs)]
    assert [Outcome.ORPHANED, None] == outcomes(here, task)


@pytest.mark.parametrize("seconds", [3, LIMIT / 2])
def test_an_outage_within_the_limit_ends_nobody(hosts: Hosts, seconds: float) -> None:
    here, there = hosts.all
    tasks = [here.submit("work", queue=queue) for queue in ("a", "b")]
    hosts.start()
    hosts.run_for(QUARTER)

    here.road.cut = there.road.cut = True
    hosts.run_for(seconds)
    assert sorted(tasks) == sorted(here.tasks + there.tasks)
    here.road.cut = there.road.cut = False
    hosts.run_for(10)

    assert sorted(tasks) == sorted(here.tasks + there.tasks)
    assert [[None], [None]] == [outcomes(here, task) for task in tasks]


@pytest.mark.parametrize("first", [0, 1])
def test_what_ended_while_the_store_was_down_for_hours_is_recorded_by_its_own_node(
    hosts: Hosts, first: int
) -> None:
    """Whichever node is back first: it leaves the others a moment to record what they kept."""
    here, there = hosts.all
    finished = [here.submit("work", queue=queue) for queue in ("a", "b")]
    hosts.start()
    hosts.run_for(QUARTER)

    here.road.cut = there.road.cut = True
    hosts.run_for(LIMIT / 2)
    for host in hosts.all:
        host.finish(*host.tasks)
    hosts.run_for(3 * 3600)
    hosts.all[first].road.cut = False
    hosts.run_for(3)
    hosts.all[1 - first].road.cut = False
    hosts.run_for(10)

    assert [[Outcome.SUCCEEDED]] * 2 == [outcomes(here, task) for task in finished]


def test_runs_that_an_outage_of_hours_ended_go_on_afterwards(hosts: Hosts) -> None:
    here, there = hosts.all
    tasks = [here.submit("work", queue=queue) for queue in ("a", "b")]
    hosts.start()
    hosts.run_for(QUARTER)

    here.road.cut = there.road.cut = True
    hosts.run_for(3 * 3600)
    assert [] == here.tasks + there.tasks
    here.road.cut = there.road.cut = False
    hosts.run_for(10)

    assert [[Outcome.ORPHANED, None]] * 2 == [outcomes(here, task) for task in tasks]
    assert sorted(tasks) == sorted(here.tasks + there.tasks)


def test_a_node_that_is_gone_for_good_is_not_awaited(hosts: Hosts) -> None:
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()

    there.frozen = True
    there.executor.die()
    hosts.run_for(TAKEN + 0.1)

    assert [task] == here.tasks


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_step_of_one_hosts_clock_changes_nothing(hosts: Hosts, step: float) -> None:
    here, there = hosts.all
    tasks = [here.submit("work", queue=queue) for queue in ("a", "b")]
    hosts.start()

    there.step_clock(step)
    hosts.run_for(2 * LIMIT)

    assert [[None], [None]] == [outcomes(here, task) for task in tasks]
    there.road.cut = True
    hosts.run_for(TAKEN + 0.1)
    assert 1 == len(here.tasks)  # it has one slot, and its own task
    assert GRACE == there.executor.graces.popitem()[1]


def test_with_no_limit_nobody_else_takes_a_silent_nodes_claims() -> None:
    hosts = Hosts(slots=1, absence_limit=None)
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()

    there.road.cut = True
    hosts.run_for(3 * 3600)

    assert ([], [task]) == (here.tasks, there.tasks)
    assert not any(isinstance(message, wire.End) for message in there.executor.sent)


def test_an_outage_of_a_moment_delays_no_takeover(hosts: Hosts) -> None:
    """A store that is busy again and again would otherwise put it off for ever."""
    here, there = hosts.all
    task = here.submit("work")
    there.start()
    here.start()

    there.frozen = True
    for _ in range(round(TAKEN / 3) + 1):
        here.road.cut = True
        hosts.run_for(1)
        here.road.cut = False
        hosts.run_for(2)

    assert [task] == here.tasks


def test_a_run_that_was_stranded_here_is_its_nodes_again_once_that_confirms_it() -> None:
    """What could not be seen may have been nothing: its worker outlives its kill over there."""
    hosts = Hosts()
    one, two = hosts.start()
    task = one.submit("work")
    hosts.run_for(3)
    here, there = (one, two) if two.tasks else (two, one)
    uid = there.uid(task)
    there.executor.graces[uid] = 1e9
    here.executor.alive[uid] = "it is unknown whether it lives"
    there.road.cut = True
    hosts.run_for(TAKEN + 3)
    assert [task] == [one.task_id for one in here.supervisor.report(at=here.at()).stranded]
    there.road.cut = False
    hosts.run_for(1.5)
    del here.executor.alive[uid]

    hosts.run_for(2 * SETTINGS.reap_interval)

    assert [None] == outcomes(here, task)
    assert not here.supervisor.report(at=here.at()).stranded


@pytest.mark.parametrize(("back", "away"), [(1.2, 4.0), (0.3, 4.6)])
def test_an_outage_in_two_parts_costs_no_node_what_ended_meanwhile(
    back: float, away: float
) -> None:
    hosts = Hosts()
    one, two = hosts.start()
    task = one.submit("work")
    hosts.run_for(3)
    there, here = (one, two) if one.tasks else (two, one)
    there.road.cut = here.road.cut = True
    hosts.run_for(50)
    there.finish(task)
    hosts.run_for(TAKEN)
    for cut, seconds in ((False, back), (True, away), (False, 1.5)):
        here.road.cut = cut
        hosts.run_for(seconds)
    there.road.cut = False
    hosts.run_for(3)

    assert [Outcome.SUCCEEDED] == outcomes(there, task)
