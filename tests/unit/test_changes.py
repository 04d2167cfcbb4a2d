"""Reports of one run are written in their order, though those of all runs are written at once."""

import pytest

from dispatcher import wire
from dispatcher.model import Liveness, Outcome
from tests.simulation import World


@pytest.mark.parametrize(("is_first", "outcome"), [(True, "timed_out"), (False, "failed")])
def test_an_ending_is_written_before_what_its_worker_sent_later(
    is_first: bool, outcome: str
) -> None:
    world = World()
    task_id = world.submit("work", liveness=Liveness.WORKER, max_attempts=1)
    world.start()
    uid = world.uid(task_id)
    ending = wire.Changed(uid=uid, state=wire.RunState.ENDING, ended_by=wire.EndedBy.RUN_TIMEOUT)
    failed = wire.Notice(uid=uid, serial=1, failed=True)

    world.executor.events += [ending, failed] if is_first else [failed, ending]
    world.executor.gone(uid, None, at=world.at(), signal=15)
    world.settle_down()

    assert [Outcome(outcome)] == [run.outcome for run in world.runs(task_id)]


def test_of_two_notices_of_a_run_in_a_tick_both_count() -> None:
    world = World()
    task_id = world.submit("work", liveness=Liveness.WORKER)
    world.start()
    uid = world.uid(task_id)
    world.run_for(5)

    world.executor.events.append(wire.Notice(uid=uid, serial=1, beat=True, note="first"))
    world.executor.events.append(wire.Notice(uid=uid, serial=2, note="second"))
    world.settle_down()

    (run,) = world.runs(task_id)
    assert (run.note, run.last_heartbeat_at) == ("second", world.now())
    noted = [one.serial for one in world.executor.sent if isinstance(one, wire.Noted)]
    assert [1, 2] == noted
