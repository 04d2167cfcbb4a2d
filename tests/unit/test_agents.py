"""Fake agents, in the formats of the real ones, under the adapter and a fake daemon."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.eventually import eventually
from tests.unit.agents import FakeDaemon, Run, agent, daemon
from worker_stub import Refused, names
from worker_stub.__main__ import main
from worker_stub.agent import adapter, run
from worker_stub.daemon_socket import Unreachable

__all__ = ["agent", "daemon"]

SPEAKERS = ("claude", "codex", "gemini", "opencode")


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_healthy_agent_succeeds_and_its_output_is_as_it_was(
    agent: Run, daemon: FakeDaemon, kind: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    code = agent(kind, "assert 'DISPATCHER_CLAIM_LOCK' not in os.environ; say('healthy'); exit(1)")

    assert 0 == code
    assert "succeed" == daemon.declared["op"]
    assert "All 12 tests pass." == daemon.declared["result"]["text"]
    session = daemon.declared["result"]["session"]
    assert (kind, session) == (daemon.checkpoint["agent"], daemon.checkpoint["session"])
    recorded = (Path(__file__).parents[1] / "streams" / kind / "healthy.jsonl").read_bytes()
    assert recorded == capfdbinary.readouterr().out


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_refused_tool_fails_the_run_although_the_agent_exits_0(
    agent: Run, daemon: FakeDaemon, kind: str
) -> None:
    assert 1 == agent(kind, "say('refused')")
    assert ("fail", True) == (daemon.declared["op"], daemon.declared["retry"])
    assert "not allowed" in daemon.declared["reason"]


def test_a_usage_limit_defers_until_its_reset(agent: Run, daemon: FakeDaemon) -> None:
    limited = """
        say("limit", 2)
        info = {"status": "rejected", "resetsAt": int(time.time()) + 3600}
        write(json.dumps({"type": "rate_limit_event", "rate_limit_info": info}).encode() + b"\\n")
        exit(1)
    """
    assert 75 == agent("claude", limited)
    assert 3000 < daemon.declared["delay"] <= 3600
    assert daemon.checkpoint["session"]
    assert "usage limit" == daemon.declared["reason"]


def test_a_limit_without_a_time_has_the_tasks_cool_down(agent: Run, daemon: FakeDaemon) -> None:
    assert 75 == agent("codex", "say('limit_unknown'); exit(1)")
    assert {"op", "reason"} == daemon.declared.keys()
    assert "429 Too Many Requests" in daemon.declared["reason"]


def test_a_usage_limit_closes_the_limit_of_the_provider(agent: Run, daemon: FakeDaemon) -> None:
    assert 75 == agent("codex", "say('limit_unknown'); exit(1)", "--limit", "openai")
    assert ("openai", 900.0) == (daemon.declared["close"], daemon.declared["delay"])


def test_a_limit_that_the_task_does_not_take_closes_nothing_and_defers(
    agent: Run, daemon: FakeDaemon
) -> None:
    def seen(request: dict[str, Any]) -> None:
        if "close" in request:
            raise Refused("not_taken", "the task does not take it")

    daemon.seen = seen
    assert 75 == agent("codex", "say('limit_unknown'); exit(1)", "--limit", "openai")
    assert {"op", "reason"} == daemon.declared.keys()


@pytest.mark.parametrize("hardened", [False, True], ids=["sigterm", "sigkill"])
def test_an_agent_that_hangs_after_its_result_is_ended_and_has_succeeded(
    agent: Run, daemon: FakeDaemon, hardened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GRACE", 0.1)
    ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if hardened else ""

    assert 0 == agent("claude", f"{ignores}say('healthy'); hang()", "--linger", "0.1")
    assert "succeed" == daemon.declared["op"]


def test_an_agent_that_waits_for_its_provider_is_ended_and_deferred(
    agent: Run, daemon: FakeDaemon
) -> None:
    assert 75 == agent("opencode", "say('limit_unknown'); hang()", "--linger", "0.1")
    assert "defer" == daemon.declared["op"]


def test_an_agent_that_dies_in_the_middle_is_resumed_in_the_next_run(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is told how the run ended, beside its prompt."""
    assert 1 == agent("claude", "say('cut'); os.kill(os.getpid(), 9)")
    assert "claude: exit code 137: its stream has no last event" == daemon.declared["reason"]
    session = daemon.checkpoint["session"]

    monkeypatch.setenv(names.CLAIM_LOCK, "another")
    monkeypatch.setenv(names.CHECKPOINT, json.dumps({**daemon.checkpoint, "cost_usd": 2}))
    ended = {"outcome": "failed", "reason": daemon.declared["reason"], "output": "/out/1"}
    monkeypatch.setenv(names.PREVIOUS, json.dumps(ended))
    daemon.requests.clear()
    resumed = f"""
        assert sys.argv[1:] == ["--resume", {session!r}, "-p", "fix it"], sys.argv
        told = sys.stdin.read()
        assert "ended: failed (claude: exit code 137" in told, told
        assert "Continue where you stopped." in told and "/out/1" not in told, told
        say("healthy")
    """
    assert 0 == agent("claude", resumed, words=("-p", "fix it"))
    assert 2.0421 == daemon.declared["result"]["cost_usd"]


def test_an_agent_whose_session_is_gone_begins_anew_in_the_same_run(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in SPEAKERS:
        monkeypatch.setenv(names.CLAIM_LOCK, "secret")
        monkeypatch.setenv(names.CHECKPOINT, json.dumps({"agent": kind, "session": "gone"}))
        monkeypatch.setenv(names.PREVIOUS, json.dumps({"outcome": "lost", "output": "/out/1"}))
        daemon.requests.clear()
        body = """
            if "gone" in sys.argv:
                say("unresumed")
                exit(1)
            told = sys.stdin.read()
            assert "ended: lost. Its output is in /out/1." in told, told
            say("healthy")
        """
        words = {"codex": ("exec", "x"), "opencode": ("run", "x")}.get(kind, ("x",))
        assert 0 == agent(kind, body, words=words), kind
        assert "succeed" == daemon.declared["op"]


def test_the_session_of_another_kind_is_not_resumed(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for checkpoint in ('{"agent": "codex", "session": "s"}', "[1]", "{", '{"agent": "claude"}'):
        monkeypatch.setenv(names.CLAIM_LOCK, "secret")
        monkeypatch.setenv(names.CHECKPOINT, checkpoint)
        assert 0 == agent("claude", "assert len(sys.argv) == 1; say('healthy')")


def test_an_answer_reaches_the_agent_after_its_payload(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = {"question": "Which one?", "kind": "approval", "answer": "the blue", "by": "ann"}
    monkeypatch.setenv(names.ANSWER, json.dumps(answer))
    (tmp_path / "payload").write_text('{"file": 1}')
    body = """
        payload, told = sys.stdin.read().split("\\n\\n")
        assert payload == '{"file": 1}', payload
        assert "You asked: Which one?\\nA person answered: the blue" in told, told
        say("healthy")
    """
    ours = os.dup(0)
    try:
        with (tmp_path / "payload").open() as payload:
            os.dup2(payload.fileno(), 0)
        assert 0 == agent("claude", body)
    finally:
        os.dup2(ours, 0)
        os.close(ours)


def test_a_huge_line_and_what_is_no_json_are_copied_and_show_life(
    agent: Run, daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    body = """
        write(b'{"type": "user", "data": "' + b"x" * 10_000_000 + b'"}\\n')
        write(b'{"type": "assistant", \\n\\xff\\xfe\\n[[[\\n')
        say("healthy")
    """
    assert 0 == agent("claude", body)
    assert len(daemon.beats) >= 1
    out = capfdbinary.readouterr().out
    assert out.startswith(b'{"type": "user"')
    assert b"x" * 10_000_000 in out
    assert b"\n\xff\xfe\n[[[\n" in out


def test_a_flood_of_events_sends_few_beats(agent: Run, daemon: FakeDaemon) -> None:
    """One at once, and one with what came since, before the end: an interval is 20 s."""
    body = """
        for n in range(3000):
            write(b'{"type": "item.completed", "item": {"type": "reasoning", "text": "%d"}}\\n' % n)
        write(b'{"type": "turn.completed"}\\n')
    """
    assert 0 == agent("codex", body)
    assert len(daemon.beats) <= 2
    assert "step 3000: 2999" == daemon.notes[-1]
    assert 3000 == daemon.declared["result"]["steps"]


def test_a_silent_agent_sends_no_beat(agent: Run, daemon: FakeDaemon) -> None:
    assert 1 == agent("claude", "time.sleep(0.1); exit(3)")
    assert [] == daemon.beats


def test_an_event_soon_after_a_beat_is_reported_though_none_follows(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What an agent does for an hour is known, and its lease counts from its last event."""
    monkeypatch.setenv(names.HEARTBEAT_INTERVAL, "0.1")
    go_on = tmp_path / "go-on"

    def seen(request: dict[str, Any]) -> None:
        if request.get("note") == "step 4: Bash: make test":
            go_on.touch()

    daemon.seen = seen
    body = f"""
        say("healthy", 3)
        say("healthy", 5)  # soon after, and nothing more until it is reported
        while not os.path.exists({str(go_on)!r}):
            time.sleep(0.01)
        say("healthy")
    """
    assert 0 == agent("claude", body)


def test_a_daemon_that_is_away_costs_nothing(agent: Run, daemon: FakeDaemon) -> None:
    tries: list[str] = []

    def away(request: dict[str, Any]) -> None:
        tries.append(request["op"])
        if len(tries) in {1, 2, 5}:
            raise Unreachable("away")

    daemon.seen = away
    assert 0 == agent("claude", "say('healthy')")
    assert "succeed" == daemon.declared["op"]
    assert daemon.checkpoint["session"]


@pytest.mark.parametrize("command", [["sleep", "1000"], ["yes"]], ids=["silent", "endless"])
def test_an_agent_ends_though_others_hold_its_output(
    agent: Run, daemon: FakeDaemon, tmp_path: Path, command: list[str]
) -> None:
    body = f"""
        import subprocess
        say("healthy")
        left = subprocess.Popen({command})
        open({str(tmp_path / "pid")!r}, "w").write(str(left.pid))
    """
    try:
        assert 0 == agent("claude", body)
        assert "succeed" == daemon.declared["op"]
    finally:
        with suppress(psutil.NoSuchProcess):  # a broken pipe ends one that writes
            psutil.Process(int((tmp_path / "pid").read_text())).kill()


def test_an_agent_that_closes_its_output_is_waited_for(agent: Run, daemon: FakeDaemon) -> None:
    assert 0 == agent("claude", "say('healthy'); os.close(1); time.sleep(0.1); os._exit(0)")
    assert "succeed" == daemon.declared["op"]


def test_sigterm_is_passed_on_and_nothing_is_declared(agent: Run, daemon: FakeDaemon) -> None:
    def seen(_: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    daemon.seen = seen
    assert 143 == agent("claude", "say('cut'); hang()")
    assert daemon.requests == daemon.beats


def test_lines_are_notes_and_the_exit_code_passes(agent: Run, daemon: FakeDaemon) -> None:
    assert 7 == agent("lines", "print('half of it'); exit(7)")
    assert ["step 1: half of it"] == daemon.notes
    assert daemon.requests == daemon.beats


def test_a_program_that_is_not_there_is_reported_as_by_a_shell(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 127 == main(["agent", "--kind", "codex", "--", "/nowhere/codex"])
    assert "worker_stub: /nowhere/codex: No such file" in capsys.readouterr().err


# A lost claim ---------------------------------------------------------------------------------


def test_an_agent_whose_claim_is_lost_is_ended_with_79(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left: list[int] = []
    ended = tmp_path / "ended"

    def leave(code: int) -> None:
        left.append(code)
        daemon.seen = lambda _: None

    def refused(_: dict[str, Any]) -> None:
        raise Refused("superseded", "stop")

    monkeypatch.setattr(adapter.os, "_exit", leave)
    daemon.seen = refused
    body = f"""
        import signal
        def end(*_):
            open({str(ended)!r}, "w")
            os._exit(1)
        signal.signal(signal.SIGTERM, end)
        say("cut")
        hang()
    """
    agent("claude", body)

    eventually(lambda: _equal([79], left))
    assert ended.exists(), "the agent was not asked to end"


def _equal(expected: object, found: object) -> None:
    assert expected == found


# Verification ---------------------------------------------------------------------------------


def test_a_success_that_is_verified_stands(agent: Run, daemon: FakeDaemon) -> None:
    assert 0 == agent("claude", "say('refused')", "--verify", "true")
    assert "succeed" == daemon.declared["op"]


@pytest.mark.parametrize("kind", ["claude", "lines"])
def test_a_success_that_is_not_verified_fails_with_the_last_lines(
    agent: Run, daemon: FakeDaemon, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    body = "say('healthy')" if kind == "claude" else "print('done')"
    check = "seq 1 5000; echo '3 failed' >&2; exit 4"

    assert 1 == agent(kind, body, "--verify", check)
    reason = daemon.declared["reason"]
    assert reason.startswith("not verified: exit code 4: 4992 | ")
    assert reason.endswith(" | 5000 | 3 failed")
    assert "2500\n" in capfd.readouterr().out


def test_a_failure_is_not_verified(agent: Run, daemon: FakeDaemon, tmp_path: Path) -> None:
    for kind, body in (("claude", "say('failed')"), ("lines", "exit(7)")):
        agent(kind, body, "--verify", f"touch {tmp_path}/verified")
        os.environ[names.CLAIM_LOCK] = "secret"

    assert not (tmp_path / "verified").exists()


def test_the_output_of_a_verification_is_its_life(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(names.HEARTBEAT_INTERVAL, "0.02")
    beats: list[object] = []

    def seen(request: dict[str, Any]) -> None:
        if "note" not in request and beats:
            (tmp_path / "go-on").touch()
        beats.append(request.get("note"))

    daemon.seen = seen
    check = f"until [ -e {tmp_path}/go-on ]; do printf .; sleep 0.02; done"
    assert 0 == agent("claude", "say('healthy')", "--verify", check)
    assert f"verify: {check}"[:60] in " ".join(str(note) for note in beats)


@pytest.mark.parametrize(
    ("command", "check", "code"), [("true", "true", 0), ("true", "echo bad; false", 1)]
)
def test_a_wrapped_command_is_verified_too(
    daemon: FakeDaemon, command: str, check: str, code: int
) -> None:
    assert code == main(["run", "--verify", check, "--", command])
    if code:
        assert "not verified: exit code 1: bad" == daemon.declared["reason"]
    else:
        assert daemon.requests == daemon.beats


def test_a_wrapped_command_that_fails_is_not_verified(daemon: FakeDaemon, tmp_path: Path) -> None:
    check = f"touch {tmp_path}/verified"

    assert 3 == main(["run", "--verify", check, "--", "sh", "-c", "exit 3"])
    assert not (tmp_path / "verified").exists()


def test_a_verification_that_is_stopped_declares_nothing(daemon: FakeDaemon) -> None:
    check = f"kill {os.getpid()}; sleep 100"

    assert 143 == main(["run", "--verify", check, "--", "true"])
    assert daemon.requests == daemon.beats


def test_those_who_run_no_agent_import_none_of_it() -> None:
    script = "import sys, worker_stub.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {*done.stdout.split()}

    assert "worker_stub.agent.options" in loaded
    assert set() == loaded & {
        *("worker_stub.agent.adapter", "worker_stub.agent.kinds", "worker_stub.verify"),
        *("dataclasses", "zoneinfo", "datetime"),
    }


def test_the_time_of_a_reset_that_has_passed_meanwhile_is_no_delay(
    agent: Run, daemon: FakeDaemon
) -> None:
    limited = """
        info = {"status": "rejected", "resetsAt": time.time() + 0.05}
        write(json.dumps({"type": "rate_limit_event", "rate_limit_info": info}).encode() + b"\\n")
        time.sleep(0.1)
    """
    assert 75 == agent("claude", limited)
    assert 0.0 <= daemon.declared.get("delay", 0.0) <= 0.05
