"""The messages for operators about a task whose run is ending."""

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from dispatcher import control
from dispatcher.execution import Claim
from dispatcher.executor_api import END_THEM
from dispatcher.host.marks import MOST_LISTED, mark_of
from dispatcher.model import Declared, Intent, Outcome, TaskState
from dispatcher.wire import Exit
from dispatcher.words import Declaration
from tests.command import Command
from tests.eventually import eventually
from tests.reports import report

NO_DAEMON = "dispatcher: the daemon is not running: dispatcher run --detach; "
ENDED_LATER = f"{NO_DAEMON}a run that is not being ended yet goes on until it is back\n"
READY_LATER = f"{NO_DAEMON}ready tasks wait until it is back\n"


#: A run of task 1 that is over.
EARLIER_RUN = """
INSERT INTO runs (task_id, uid, attempt, fence, lock, node, liveness, lease_ttl_ms,
    lease_expires_at, claimed_at, output_path, outcome, reason, ended_at)
VALUES (1, 'u', 1, 9, '', 'n', 'process', 1, 1, 1, '', 'lost', '', 1)
"""


def claimed(command: Command, *options: object) -> Claim:
    """Submit a task and claim it for a node."""
    command("submit", *options, "--", "true")
    with command.client() as client, client.store.transaction() as now:
        (claim,) = client.store.claim("default", limit=1, node="n", output_dir="/o", now=now)
    return claim


def ending(command: Command, *options: object) -> Claim:
    """Have a run end because it took too long."""
    claim = claimed(command, *options)
    with command.client() as client, client.store.transaction() as now:
        client.store.begin_ending(claim.run_uid, Outcome.TIMED_OUT, "too long", now=now)
    return claim


def exited(command: Command) -> Claim:
    """Have a run end because its leader exited."""
    claim = claimed(command)
    with command.client() as client, client.store.transaction() as now:
        client.store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=3)}, now=now)
    return claim


def declaring(command: Command, word: Declared) -> Claim:
    """Have a run end by its declaration."""
    claim = claimed(command)
    words = Declaration(task_id=claim.task_id, lock=claim.lock, word=word)
    with command.client() as client, client.store.transaction() as now:
        client.store.declare(words, now=now)
    return claim


@pytest.mark.parametrize(
    ("typed", "text", "then"),
    [
        (["cancel"], "is being ended as timed_out; then it is cancelled", "cancelled"),
        (["hold", "--reason", "x"], "is being ended as timed_out; then it is held", "held"),
        (["retry"], "is being ended as timed_out; then it is ready", "ready"),
    ],
)
def test_the_fate_of_a_task_that_is_being_ended_is_reported_exactly(
    command: Command, typed: list[str], text: str, then: str
) -> None:
    ending(command)

    result = command(*typed, 1)
    as_json = command(*typed, 1, "--json")

    assert (f"1 {text}\n", ENDED_LATER) == (result.stdout, result.stderr)
    expected = {"id": 1, "was": "running", "done": True, "ending": "timed_out", "then": then}
    expected |= {"stranded": None}
    assert [expected] == as_json.json
    assert ENDED_LATER == as_json.stderr


def test_show_list_and_why_report_it_too(command: Command) -> None:
    ending(command)
    before = command("why", 1).stdout
    command("hold", 1, "--reason", "look at it")

    shown, why = command("show", 1, "--json").json, command("why", 1).stdout

    goes_on = "if it is not being ended yet, it goes on until the daemon is back"
    begins = f"it ends as timed_out; {goes_on}"
    assert f"  {begins}; then the task is scheduled: back-off after timed" in before
    assert "task 1 is running\n" in before
    assert ("timed_out", "hold", "look at it") == (
        shown["ending"],
        shown["intent"],
        shown["intent_reason"],
    )
    assert f"  {begins}; then the task is held: look at it (dispatcher hold)\n" in why
    assert "  intent     hold: look at it\n" in command("show", 1).stdout
    assert "hold" == command("list", "--json").json[0]["intent"]
    assert "its lease expires" not in why


def test_a_declared_run_is_ended_as_it_declared(command: Command) -> None:
    declaring(command, Declared.DEFER)

    assert "1 is being ended as deferred; then it is cancelled\n" == command("cancel", 1).stdout


@pytest.mark.parametrize("verb", ["cancel", "hold"])
def test_a_cancel_or_hold_after_a_declared_success_is_refused_and_changes_nothing(
    command: Command, verb: str
) -> None:
    declaring(command, Declared.SUCCEED)
    before = command("show", 1, "--json").json

    message = command(verb, 1, exits=1).stderr
    (as_json,) = command(verb, 1, "--json", exits=1).json

    never = {"cancel": "cancelled", "hold": "held"}[verb]
    assert f"dispatcher: task 1 has declared success; it cannot be {never}\n" == message
    assert (False, "succeeded") == (as_json["done"], as_json["then"])
    assert (None, None) == (before["intent"], before["ending"])
    assert before == command("show", 1, "--json").json
    assert "by an operator" not in command("why", 1).stdout


def test_a_retry_of_it_is_refused_too(command: Command) -> None:
    declaring(command, Declared.SUCCEED)

    message = command("retry", 1, exits=1).stderr

    only = "only failed, cancelled and held ones can be retried"
    assert f"dispatcher: task 1 is being ended; then it is succeeded; {only}\n" in message
    assert "dispatcher retry" not in command("why", 1).stdout


def test_a_run_that_is_not_ending_is_neither_retried_nor_released(command: Command) -> None:
    claimed(command)

    messages = [command(verb, 1, exits=1).stderr for verb in ("retry", "release")]

    only = "dispatcher: task 1 is running; only "
    assert [
        f"{only}failed, cancelled and held ones can be retried\n",
        f"{only}held and waiting ones can be released\n",
    ] == messages


@pytest.mark.parametrize("wrong", ["Cancel", "kill", "", 1, None])
def test_the_python_client_refuses_a_word_that_is_not_an_intent(
    command: Command, wrong: Any
) -> None:
    claimed(command)
    with command.client() as client:
        with pytest.raises(ValueError, match="must be one of cancel, hold, release, retry, not "):
            client.request(1, wrong)

        assert client.outlook(1) is None


def test_why_names_the_declaration_before_an_intent_ended_the_run(command: Command) -> None:
    declaring(command, Declared.DEFER)
    command("cancel", 1)
    command("retry", 1)

    message = command("why", 1).stdout

    goes_on = "if it is not being ended yet, it goes on until the daemon is back"
    then = "then the task is ready: retried by operator (dispatcher retry)"
    assert f"  it declared deferred; {goes_on}; {then}\n" in message


@pytest.mark.parametrize(
    ("ends", "facts", "message"),
    [
        (
            ending,
            {},
            "it ends as timed_out; its processes have the kill grace of 10s, then SIGKILL; then ",
        ),
        (
            lambda command: declaring(command, Declared.SUCCEED),
            {},
            "it declared succeeded; its processes have 10s to exit; then ",
        ),
        (
            exited,
            {},
            "it ends as failed; its processes have the leftover grace of 2s, as its leader has ",
        ),
        (
            ending,
            {"executor": "waiting"},
            "if it is not being ended yet, it goes on until the executor is back; then ",
        ),
    ],
)
def test_why_names_the_grace_of_an_ending_or_the_missing_process(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    ends: Callable[[Command], Claim],
    facts: dict[str, object],
    message: str,
) -> None:
    ends(command)
    monkeypatch.setattr(control, "status", lambda _: report(**facts))

    assert message in command("why", 1).stdout


def test_why_names_which_processes_of_an_ending_run_live(command: Command) -> None:
    claim = ending(command)
    mark = f"--rttime={mark_of(claim.run_uid)}:unlimited"
    living = subprocess.Popen(["prlimit", mark, "sleep", "1000"])
    try:
        eventually(lambda: _is_named(command, living.pid))
    finally:
        living.kill()
        living.wait()


def test_why_names_some_of_many_processes_and_counts_the_others(command: Command) -> None:
    mark = f"--rttime={mark_of(ending(command).run_uid)}:unlimited"
    living = [subprocess.Popen(["prlimit", mark, "sleep", "1000"]) for _ in range(MOST_LISTED + 2)]
    try:
        eventually(lambda: _is_counted(command))
    finally:
        for process in living:
            process.kill()
            process.wait()


def _is_counted(command: Command) -> None:
    message = command("why", 1).stdout
    assert re.search(
        rf"  of it still live: (sleep \(\d+\),? ){{{MOST_LISTED}}}and 2 more\n", message
    )


def _is_named(command: Command, pid: int) -> None:
    assert f"  of it still live: sleep ({pid})\n" in command("why", 1).stdout


def strand(monkeypatch: pytest.MonkeyPatch, why: str, *, fence: int = 1, ours: bool) -> None:
    one = {"task_id": 1, "fence": fence, "why": why, "is_ours": ours}
    monkeypatch.setattr(control, "status", lambda _: report(stranded=[one]))


def test_a_cancel_of_a_stranded_run_names_the_processes_to_end(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody signals it, so no verb promises that."""
    claimed(command)
    living = f"its processes live on this host: sleep (20816){END_THEM}"
    strand(monkeypatch, living, ours=False)

    result = command("cancel", 1)
    (as_json,) = command("cancel", 1, "--json").json
    why = command("why", 1).stdout

    message = f"1 is stranded, and no executor ends it: {living}; then it is cancelled\n"
    assert (message, "") == (result.stdout, result.stderr)
    assert (living, "cancelled") == (as_json["stranded"], as_json["then"])
    assert f"no executor ends it: {living}; it is settled once nothing of it lives\n" in why
    assert "nothing ends its processes; then the task is cancelled: cancelled by an op" in why


def test_an_intent_on_a_stranded_run_of_this_node_names_its_executor(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed(command)
    living = "its processes live on this host: sleep (20816)"
    strand(monkeypatch, living, ours=True)

    result = command("cancel", 1).stdout
    why = command("why", 1).stdout

    assert result == "1 is being ended; then it is cancelled\n"
    assert f"the executor does not know it, and ends what lives of it: {living}; it is set" in why
    assert "its processes have no grace, as the executor does not know it; then the task" in why


@pytest.mark.parametrize("ours", [True, False])
def test_survivors_of_an_earlier_run_are_not_reported_for_the_next(
    command: Command, monkeypatch: pytest.MonkeyPatch, *, ours: bool
) -> None:
    claimed(command)
    strand(monkeypatch, "its processes live on this host: sleep (20816)", fence=0, ours=ours)

    assert "20816" not in command("why", 1).stdout
    assert command("cancel", 1).stdout == "1 is being ended; then it is cancelled\n"
    assert "20816" not in command("why", 1).stdout


def test_a_release_of_a_task_that_will_not_be_held_is_refused_with_its_next_state(
    command: Command,
) -> None:
    ending(command)

    message = command("release", 1, exits=1).stderr

    assert message == (
        "dispatcher: task 1 is being ended as timed_out; then it is scheduled;"
        " only held and waiting ones can be released\n"
    )


def test_a_release_without_an_attempt_left_is_refused_with_the_remedy(command: Command) -> None:
    ending(command, "--max-attempts", 1)
    command("hold", 1)

    message = command("release", 1, exits=1).stderr

    remedy = "`dispatcher retry 1` restores all its attempts"
    assert message == (
        "dispatcher: task 1 is being ended as timed_out; then it is held, and cannot be released:"
        f" no attempt is left; {remedy}\n"
    )
    with command.client() as client:
        assert Intent.HOLD is client.task(1).intent
    command("retry", 1)


def test_held_without_an_attempt_left_it_is_not_released_either(command: Command) -> None:
    command("submit", "--max-attempts", 1, "--", "true")
    command.run_once(state=TaskState.HELD, outcome=Outcome.TIMED_OUT)

    message = command("release", 1, exits=1).stderr

    assert "task 1 is held with no attempt left; `dispatcher retry 1` restores" in message
    assert "1 ready\n" == command("retry", 1).stdout


def test_a_hold_beyond_the_total_time_is_refused_with_the_next_state(command: Command) -> None:
    ending(command, "--total-timeout", "1ms")

    message = command("hold", 1, exits=1).stderr

    assert "then it is failed: timed_out: too long; total_timeout is over" in message


def test_a_ready_task_waits_for_a_daemon_and_every_verb_reports_it(command: Command) -> None:
    command("submit", "--", "true")

    held = command("hold", 1)
    released = command("release", 1)
    cancelled = command("cancel", 1)
    retried = command("retry", 1)

    assert ["", "", ""] == [held.stderr, cancelled.stderr, command("cancel", 1).stderr]
    assert [READY_LATER] * 2 == [released.stderr, retried.stderr]


def test_the_python_client_returns_the_same(command: Command) -> None:
    ending(command)
    with command.client() as client:
        before = client.outlook(1)

        requested = client.request(1, "cancel")

        assert before is not None
        assert (Outcome.TIMED_OUT, TaskState.SCHEDULED) == (before.outcome, before.state)
        assert requested.ahead == client.outlook(1)
        assert requested.ahead is not None
        assert (TaskState.RUNNING, TaskState.CANCELLED) == (requested.was, requested.ahead.state)
        assert "cancelled by an operator" == requested.ahead.reason
        assert TaskState.RUNNING is client.hold(1)
        assert client.request(9, Intent.CANCEL).was is None


# Local claims --------------------------------------------------------------------------------


def test_nobody_claims_a_named_task_of_a_paused_queue(command: Command) -> None:
    command("submit", "--queue", "ci", "--", "true")
    command("pause", "ci", "--reason", "upgrade")

    message = command("claim", "--task", 1, exits=1).stderr

    assert "queue ci is paused: upgrade; `dispatcher resume ci` ends that" in message
    assert "ready" == command("show", 1, "--json").json["state"]


def passed(command: Command, milliseconds: int) -> None:
    """Let time pass for the local claims: all that is theirs moves back."""
    statements = (
        "UPDATE tasks SET total_at = total_at - :ms",
        """UPDATE runs SET deadline_at = deadline_at - :ms, takeover_at = takeover_at - :ms,
        lease_expires_at = lease_expires_at - :ms""",
    )
    with command.client() as client, client.store.transaction():
        for one in statements:
            client.store.engine.change(one, {"ms": milliseconds})  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", ["run", "total"])
@pytest.mark.parametrize("words", [["complete"], ["heartbeat"], ["fail", "--reason", "x"]])
def test_a_claim_by_hand_is_timed_out_after_its_time_whatever_it_declares(
    command: Command, limit: str, words: list[str]
) -> None:
    command("submit", f"--{limit}-timeout", "3s", "--max-attempts", 2, "--", "true")
    claim: Any = command("claim", "--ttl", "1h", "--json").json
    passed(command, 6_000)

    message = command(*words, "--task", 1, "--lock", claim["lock"], exits=79).stderr
    command("cancel", 1, exits=1 if limit == "total" else 0)  # any verb settles what is over

    shown = command("show", 1, "--json").json
    (run,) = shown["runs"]
    assert "not_owner" in message
    assert ("timed_out", 1) == (run["outcome"], shown["attempts_used"])
    why = {"run": "run_timeout: not done within 3s", "total": "total_timeout is over"}
    assert why[limit] == run["error"]
    assert ("failed" if limit == "total" else "cancelled") == shown["state"]


def test_the_reported_expiry_of_a_claim_by_hand_is_within_its_time(command: Command) -> None:
    command("submit", "--run-timeout", "3s", "--", "true")
    claim: Any = command("claim", "--ttl", "1h", "--json").json

    beat = command("heartbeat", "--task", 1, "--lock", claim["lock"], "--json")

    expires_at = claim["lease_expires_at"]
    assert expires_at == beat.json["lease_expires_at"]
    ends = f"dispatcher: its run or total time-out ends at {expires_at}"
    assert f"{ends}; no heartbeat renews the lease beyond\n" == beat.stderr


def test_a_lease_that_no_time_out_ends_early_is_reported_without_time_outs(
    command: Command,
) -> None:
    command("submit", "--run-timeout", "3h", "--", "true")
    claim = command("claim", "--ttl", "1h", "--json")

    beat = command("heartbeat", "--task", 1, "--lock", claim.json["lock"])

    assert ["", ""] == [claim.stderr, beat.stderr]


def test_a_held_task_gets_the_reason_that_is_given_and_keeps_it_otherwise(command: Command) -> None:
    command("submit", "--", "true")
    command.run_once(outcome=Outcome.HELD, state=TaskState.HELD)

    command("hold", 1)
    assert "used up its attempts" == command("show", 1, "--json").json["reason"]

    tried = command("hold", 1, "--reason", "ask Ada", "--dry-run").stdout
    assert tried.startswith("would hold: 1 task (1 held)\n")
    assert "1 held\n" == command("hold", 1, "--reason", "ask Ada").stdout
    assert "ask Ada" == command("show", 1, "--json").json["reason"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_task_whose_run_was_deleted_by_hand_is_reported_with_a_remedy_that_works(
    command: Command, *, earlier: bool
) -> None:
    claim = claimed(command, "--total-timeout", "1h")
    with command.client() as client, client.store.transaction():
        engine = client.store.engine  # type: ignore[attr-defined]
        engine.change("DELETE FROM runs")
        if earlier:
            engine.change(EARLIER_RUN)
    why = command("why", claim.task_id).stdout
    refused = [
        command(verb, claim.task_id, exits=1).stderr for verb in ("cancel", "hold", "release")
    ]

    missing = (
        "its run is missing, whose row was deleted by hand; stop the daemon, write to the store"
    )
    assert [True] * 4 == [missing in text for text in (why, *refused)]
    (remedy,) = re.findall("UPDATE .*?(?=;)", refused[0])
    with command.client() as client, client.store.transaction():
        client.store.engine.change(remedy)  # type: ignore[attr-defined]

    assert "1 cancelled\n" == command("cancel", 1).stdout
