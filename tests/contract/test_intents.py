"""An operator's intent for a running task: kept with it, and obeyed when its run is settled."""

from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.errors import StoreRefused
from dispatcher.execution import Claim
from dispatcher.model import Declared, Intent, Outcome, TaskState
from dispatcher.policy import next_state
from dispatcher.wire import Exit
from dispatcher.words import Accepted, Declaration
from tests.contract.helpers import NODE, NOW, OneByOne, later


def intent_of(store: OneByOne, claim: Claim) -> tuple[Intent | None, str | None]:
    task = store.task(claim.task_id)
    return task.intent, task.intent_reason


def begin_to_end(store: OneByOne, claim: Claim, how: str) -> None:
    """Bring a run to where its end has begun, in each of the ways."""
    if how == "declared success":
        words = Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED)
        assert Accepted() == store.declare(words, now=NOW)
    elif how == "exited with 0":
        assert store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=0)}, now=NOW)
    elif how == "exited as its rules call a success":
        assert store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=3)}, now=NOW)
    elif how == "declared":
        words = Declaration(task_id=claim.task_id, lock=claim.lock, word=Declared.DEFER)
        assert Accepted() == store.declare(words, now=NOW)
    elif how == "leader exited":
        assert store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=1)}, now=NOW)
    else:
        assert store.begin_ending(claim.run_uid, Outcome.TIMED_OUT, "too long", now=NOW)


@pytest.mark.parametrize("how", ["ending", "declared", "leader exited"])
@pytest.mark.parametrize(
    ("verb", "intent"), [("cancel", Intent.CANCEL), ("hold", Intent.HOLD), ("retry", Intent.RETRY)]
)
def test_an_intent_is_kept_for_a_run_that_is_ending(
    store: OneByOne, how: str, verb: str, intent: Intent
) -> None:
    claim = store.claimed()
    begin_to_end(store, claim, how)
    why = () if verb == "retry" else ("not needed",)

    assert TaskState.RUNNING is getattr(store, verb)(claim.task_id, *why, now=later(1))

    assert (intent, why[0] if why else "retried by operator") == intent_of(store, claim)
    (run,) = store.open_runs(NODE)
    assert (intent, intent_of(store, claim)[1]) == (run.intent, run.intent_reason)


@pytest.mark.parametrize(
    ("how", "ending"),
    [("ending", Outcome.TIMED_OUT), ("declared", Outcome.CANCELLED), ("leader exited", None)],
)
def test_an_ending_stands_and_none_is_begun_once_the_leader_has_exited(
    store: OneByOne, how: str, ending: Outcome | None
) -> None:
    claim = store.claimed()
    begin_to_end(store, claim, how)

    store.cancel(claim.task_id, "not needed", now=later(1))

    assert ending is store.task(claim.task_id).ending


@pytest.mark.parametrize(
    "how", ["declared success", "exited with 0", "exited as its rules call a success"]
)
@pytest.mark.parametrize("verb", ["cancel", "hold", "retry", "release"])
def test_a_run_that_has_succeeded_takes_no_intent_and_no_ending(
    store: OneByOne, how: str, verb: str
) -> None:
    claim = store.claimed(profile="p", rules={"3": "succeeded"})
    begin_to_end(store, claim, how)
    before = store.task(claim.task_id), store.open_runs(NODE)

    why = ("not needed",) if verb in {"cancel", "hold"} else ()
    assert TaskState.RUNNING is getattr(store, verb)(claim.task_id, *why, now=later(1))

    assert before == (store.task(claim.task_id), store.open_runs(NODE))
    assert [] == store.endings(NODE)


def test_an_exit_0_in_an_ending_is_not_a_success_and_the_intent_is_kept(store: OneByOne) -> None:
    claim = store.claimed()
    begin_to_end(store, claim, "ending")
    begin_to_end(store, claim, "exited with 0")

    store.cancel(claim.task_id, "not needed", now=later(1))

    assert (Intent.CANCEL, "not needed") == intent_of(store, claim)


def test_the_last_intent_holds(store: OneByOne) -> None:
    claim = store.claimed()
    kept = []

    for verb, *why in (("cancel", "a"), ("retry",), ("hold", "b"), ("release",), ("cancel", "c")):
        getattr(store, verb)(claim.task_id, *why, now=NOW)
        kept.append(intent_of(store, claim)[0])

    assert [Intent.CANCEL, Intent.RETRY, Intent.HOLD, Intent.RELEASE, Intent.CANCEL] == kept
    assert Outcome.CANCELLED is store.task(claim.task_id).ending  # the first ending


def test_a_run_that_goes_on_is_not_retried_or_released(store: OneByOne) -> None:
    claim = store.claimed()
    before = store.task(claim.task_id)

    assert TaskState.RUNNING is store.retry(claim.task_id, now=NOW)
    assert TaskState.RUNNING is store.release(claim.task_id, now=NOW)
    assert before == store.task(claim.task_id)


def test_only_a_task_that_would_be_held_is_released(store: OneByOne) -> None:
    timed_out, declared, exited = store.claimed(), store.claimed(), store.claimed()
    begin_to_end(store, timed_out, "ending")
    words = Declaration(task_id=declared.task_id, lock=declared.lock, word=Declared.HOLD)
    store.declare(words, now=NOW)
    store.record_leader_exits({exited.run_uid: Exit(at=0.0, exit_code=78)}, now=NOW)

    for claim in (timed_out, declared, exited):
        assert TaskState.RUNNING is store.release(claim.task_id, now=NOW)

    kept = [intent_of(store, claim)[0] for claim in (timed_out, declared, exited)]
    assert [None, Intent.RELEASE, Intent.RELEASE] == kept


def test_a_settled_task_has_no_intent_any_more(store: OneByOne) -> None:
    claim = store.claimed()
    store.cancel(claim.task_id, "not needed", now=NOW)

    store.end(claim, outcome=Outcome.CANCELLED, state=TaskState.CANCELLED)

    assert (None, None) == intent_of(store, claim)


def test_a_settlement_may_begin_the_total_time_out_anew(store: OneByOne) -> None:
    kept, anew = (store.claimed(total_timeout_ms=1_000, queue_timeout_ms=5_000) for _ in "12")

    for claim, total_anew in ((kept, False), (anew, True)):
        store.end(claim, state=TaskState.READY, total_anew=total_anew, now=later(900))

    columns = [store.column("total_at", claim.task_id) for claim in (kept, anew)]
    assert [later(1_000), later(1_900)] == columns
    assert [later(1_000), later(1_900)] == [
        store.task(claim.task_id).fails_at for claim in (kept, anew)
    ]


def test_a_task_without_an_attempt_left_is_not_released(store: OneByOne) -> None:
    claim = store.claimed(max_attempts=1)
    store.end(claim, outcome=Outcome.TIMED_OUT, state=TaskState.HELD, attempts_used=1)

    assert TaskState.HELD is store.release(claim.task_id, now=later(1))
    assert TaskState.HELD is store.task(claim.task_id).state
    store.retry(claim.task_id, now=later(2))
    assert TaskState.READY is store.task(claim.task_id).state


def test_a_hold_of_the_last_attempt_is_not_released(store: OneByOne) -> None:
    claim = store.claimed(max_attempts=1)
    begin_to_end(store, claim, "ending")  # timed_out, which is charged
    store.hold(claim.task_id, "look first", now=NOW)

    assert TaskState.RUNNING is store.release(claim.task_id, now=later(1))
    assert (Intent.HOLD, "look first") == intent_of(store, claim)


def test_a_release_is_of_any_task_that_is_going_to_be_held_with_attempts_left(
    store: OneByOne,
) -> None:
    """It was refused where no deferral was left; and with `--no-retry`, but the hold was gone."""
    deferred = store.claimed(max_deferrals=0)
    no_retry, patient = store.claimed(), store.claimed()
    for claim, word in (
        (deferred, Declaration(task_id=0, lock="", word=Declared.DEFER)),
        (no_retry, Declaration(task_id=0, lock="", word=Declared.FAIL, retry=False)),
        (patient, Declaration(task_id=0, lock="", word=Declared.DEFER)),
    ):
        words = replace(word, task_id=claim.task_id, lock=claim.lock)
        assert isinstance(store.declare(words, now=NOW), Accepted)
    store.hold(no_retry.task_id, "look first", now=NOW)

    store.release(deferred.task_id, now=NOW)
    store.release(no_retry.task_id, now=NOW)
    store.release(patient.task_id, now=NOW)

    kept = [intent_of(store, claim)[0] for claim in (deferred, no_retry, patient)]
    assert [Intent.RELEASE, Intent.RELEASE, None] == kept
    runs = [store.open_run(claim.run_uid) for claim in (deferred, no_retry)]
    assert all(run is not None for run in runs)
    assert [TaskState.READY] * 2 == [next_state(run, now=NOW) for run in runs if run is not None]


def test_a_hold_beyond_the_total_time_out_leaves_nothing(store: OneByOne) -> None:
    claim = store.claimed(total_timeout_ms=1_000)
    begin_to_end(store, claim, "ending")

    assert TaskState.RUNNING is store.hold(claim.task_id, "look first", now=later(2_000))
    assert (None, None) == intent_of(store, claim)


@pytest.mark.parametrize(
    "wrong",
    [
        "intent = 'cancel'",
        "intent_reason = 'x'",
        "intent = 'pray', intent_reason = 'x'",
        "deadline_at = lease_expires_at - 1",
    ],
)
def test_no_claim_has_such_an_intent_or_deadline(store: OneByOne, wrong: str) -> None:
    store.claimed()

    with pytest.raises(StoreRefused), store.raw.transaction():
        store.sql(f"UPDATE runs SET {wrong}")


# A paused queue ------------------------------------------------------------------------------


def by_node(store: OneByOne, _: int) -> Any:
    return store.take("ci") or None


def by_hand(store: OneByOne, _: int) -> Any:
    return store.claim_local("ci", owner="local:me", output_dir="/out", now=NOW)


def by_name(store: OneByOne, task_id: int) -> Any:
    return store.claim_local("x", owner="local:me", output_dir="/out", task_id=task_id, now=NOW)


@pytest.mark.parametrize("take", [by_node, by_hand, by_name])
def test_a_paused_queue_means_nobody(store: OneByOne, take: Any) -> None:
    task_id = store.new(queue="ci")
    store.pause("ci", "upgrade", now=NOW)

    assert take(store, task_id) is None

    store.resume("ci", now=NOW)
    assert take(store, task_id) is not None
