"""What the streams of agents tell, without a process."""

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.agents import NOW, STREAMS, utc
from worker_stub.agent.facts import MAX_DOING, Facts, Kind
from worker_stub.agent.kinds import KINDS
from worker_stub.agent.options import KINDS as OFFERED
from worker_stub.agent.resets import reset_time
from worker_stub.agent.run import GRACE, MAX_SAID, AgentEnd, AgentRun, Farewell
from worker_stub.agent.stream import MAX_LINE, Lines

__all__ = ["utc"]

#: Those that speak JSON.
SPEAKERS = sorted(KINDS.keys() - {"lines"})

#: When the limits of the recorded streams end: Codex names no seconds.
UNTIL = dict.fromkeys(SPEAKERS, NOW + 16000.0) | {"codex": NOW + 15_960.0}


def heard(kind: str, stream: str) -> AgentRun:
    """Return what a recorded stream tells."""
    run = AgentRun(KINDS[kind], spent=1.0)
    for line in (STREAMS / kind / f"{stream}.jsonl").read_bytes().splitlines():
        run.see(KINDS[kind].read(line), now=NOW)
    return run


def end_of(run: AgentRun, code: int, *, is_verified: bool = False) -> AgentEnd:
    return run.end(code, is_verified=is_verified)


def test_each_kind_is_offered() -> None:
    assert set(OFFERED) == set(KINDS)


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_healthy_stream_succeeds_with_its_session_cost_and_last_words(kind: str) -> None:
    run = heard(kind, "healthy")
    session = json.loads((STREAMS / kind / "healthy.jsonl").read_text().splitlines()[0])

    assert AgentEnd(op="succeed") == end_of(run, 0)
    assert AgentEnd(op="succeed") == end_of(run, 1), "whatever the exit code"
    assert 0.5 == run.progress
    assert str(run.session) in json.dumps(session)
    cost = {"claude": 1.0421, "opencode": 1.0421}.get(kind, 1.0)
    assert {"agent": kind, "session": run.session, "cost_usd": cost} == run.checkpoint
    assert ("All 12 tests pass.", 1540) == (run.last_words["text"], run.result["tokens"])
    assert run.is_over


@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        ("claude", ["", "", "step 1: I run the tests first.", "step 2: TodoWrite"]),
        ("codex", ["", "", "step 1: **Looking at the tests**", "step 1: its list"]),
        ("gemini", ["", "", "step 1: write_todos", "step 2: run_shell_command: make test"]),
        ("opencode", ["step 1: a step", "step 1: todowrite", "step 1: bash: make test"]),
    ],
)
def test_the_note_tells_what_the_agent_does(kind: str, notes: list[str]) -> None:
    run = AgentRun(KINDS[kind])
    seen = []
    for line in (STREAMS / kind / "healthy.jsonl").read_bytes().splitlines()[: len(notes)]:
        run.see(KINDS[kind].read(line), now=NOW)
        seen.append(run.note)

    assert notes == seen


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_usage_limit_defers_until_its_reset(kind: str, utc: None) -> None:
    end = end_of(heard(kind, "limit"), 1)

    assert ("defer", UNTIL[kind]) == (end.op, end.until)


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_rate_limit_without_a_time_defers(kind: str) -> None:
    end = end_of(heard(kind, "limit_unknown"), 1)

    assert ("defer", None) == (end.op, end.until)


@pytest.mark.parametrize("kind", SPEAKERS)
def test_exit_0_after_a_refused_tool_is_a_failure_unless_the_work_is_verified(kind: str) -> None:
    run = heard(kind, "refused")

    assert "fail" == end_of(run, 0).op
    assert "not allowed to use" in end_of(run, 0).reason
    assert "succeed" == end_of(run, 0, is_verified=True).op
    assert run.result["refused"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("claude", "claude: Reached the maximum budget of 1 USD"),
        ("codex", "codex: stream disconnected before completion: error sending request"),
        ("gemini", "gemini: the model gave no answer"),
        ("opencode", "opencode: Model not found: nobody/nothing"),
    ],
)
def test_a_last_event_that_fails_fails_the_run_whatever_the_exit_code(
    kind: str, reason: str
) -> None:
    assert AgentEnd(op="fail", reason=reason) == end_of(heard(kind, "failed"), 0)


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_stream_that_is_cut_is_no_success(kind: str) -> None:
    run = heard(kind, "cut")

    assert f"{kind}: exit code 0: its stream has no last event" == end_of(run, 0).reason
    assert "exit" == end_of(run, 75).op, "a wrapper's own word"
    assert not run.is_over
    assert run.has_begun


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_session_that_is_gone_did_not_begin(kind: str) -> None:
    assert not heard(kind, "unresumed").has_begun


def test_an_exit_code_that_the_kind_knows_is_explained() -> None:
    assert (
        "gemini: exit code 41: nobody is logged in" == end_of(AgentRun(KINDS["gemini"]), 41).reason
    )


def test_work_after_a_limit_or_an_end_goes_on() -> None:
    """A model that took over, or a background task that reports, is no end."""
    for stream in ("limit", "healthy"):
        run = heard("claude", stream)
        run.see(Facts(doing="more"), now=NOW)

        assert not run.is_over
        assert "fail" == end_of(run, 0).op


def test_a_limit_that_is_paid_for_is_none() -> None:
    line = (STREAMS / "claude" / "limit.jsonl").read_bytes().splitlines()[2]
    paid = line.replace(b'"isUsingOverage":false', b'"isUsingOverage":true')

    assert KINDS["claude"].read(line).limit is not None
    assert KINDS["claude"].read(paid).limit is None


def test_a_line_is_the_note_and_the_exit_code_counts() -> None:
    run = AgentRun(KINDS["lines"])
    run.see(KINDS["lines"].read(b"\x1b[1mhalf\0of it \xff"), now=NOW)

    assert "step 1: [1mhalf of it \ufffd" == run.note
    assert [AgentEnd(op="exit")] * 2 == [end_of(run, 0), end_of(run, 7)]


# What is read of anything -----------------------------------------------------------------

RECORDED = [
    json.loads(line)
    for kind in SPEAKERS
    for file in sorted((STREAMS / kind).glob("*.jsonl"))
    for line in file.read_text().splitlines()
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to each value inside."""
    if not isinstance(value, dict | list):
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(one for key, part in inner for one in places(part, (*path, key)))]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(SPEAKERS), event=st.sampled_from(RECORDED))
def test_whatever_an_event_holds_it_is_read_and_can_be_sent(
    data: st.DataObject, kind: str, event: Any
) -> None:
    changed = json.loads(json.dumps(event))
    for _ in range(data.draw(st.integers(0, 3))):
        path = data.draw(st.sampled_from(places(changed)))
        value = data.draw(ANYTHING)
        if path == ():
            changed = value
            continue
        inside = changed
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value
    run = AgentRun(KINDS[kind])

    run.see(KINDS[kind].read(json.dumps(changed).encode()), now=NOW)

    assert len(run.note) < MAX_DOING + 30
    run.note.encode()
    end_of(run, 1).reason.encode()
    sent = json.dumps(
        [run.checkpoint, run.result, run.last_words], ensure_ascii=False, allow_nan=False
    ).encode()
    assert len(sent) < 32 * 1024


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    "line", [b"{", b"[" * 100_000, b"\xff\xfe", b"1" * 5000, b"null", b'{"type": NaN}'], ids=repr
)
def test_a_line_that_is_no_event_tells_nothing_of_an_end(kind: str, line: bytes) -> None:
    run = AgentRun(KINDS[kind])

    run.see(KINDS[kind].read(line), now=NOW)

    assert not run.is_over


def test_a_long_answer_is_cut_at_its_beginning() -> None:
    run = AgentRun(KINDS["gemini"])
    for _ in range(10):
        run.see(Facts(said="\U0001f600" * 1000, goes_on=True), now=NOW)
    run.see(Facts(said="the end", goes_on=True), now=NOW)

    assert MAX_SAID == len(run.last_words["text"])
    assert run.last_words["text"].endswith("the end")


def test_a_session_that_looks_like_an_option_is_not_kept() -> None:
    run = AgentRun(KINDS["claude"])
    for session in ("--dangerous", "a b", "x" * 300, "ok-1", "-r"):
        run.see(Facts(session=session), now=NOW)

    assert "ok-1" == run.session


# Lines --------------------------------------------------------------------------------------


def test_lines_are_cut_wherever_the_pieces_end() -> None:
    lines = Lines()
    pieces = [b"a", b"b\nc", b"\n\n", b"d\r\ne\nf"]

    assert [b"ab", b"c", b"d\r", b"e"] == [line for piece in pieces for line in lines.of(piece)]
    assert b"f" == lines.rest()
    assert lines.rest() is None


def test_of_a_line_that_is_too_long_nothing_is_kept() -> None:
    lines = Lines()
    long = [b"x" * 65_536] * (10 * MAX_LINE // 65_536)

    assert [] == [line for piece in long for line in lines.of(piece)]
    assert len(lines._begun) <= MAX_LINE
    assert [b"after"] == list(lines.of(b"x\nafter\n"))


# Resumption -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "command", "resumed"),
    [
        ("claude", "claude -p --verbose 'fix it'", "claude --resume ID -p --verbose 'fix it'"),
        (
            "claude",
            "npx @anthropic-ai/claude-code@2 -p x",
            "npx @anthropic-ai/claude-code@2 --resume ID -p x",
        ),
        ("claude", "/opt/bin/claude -p --session-id U x", "/opt/bin/claude --resume ID -p x"),
        ("claude", "claude -p --continue x", None),
        ("claude", "./mine.sh x", None),
        (
            "codex",
            "codex exec --json -s read-only 'fix it'",
            "codex exec --json -s read-only resume ID 'fix it'",
        ),
        ("codex", "codex -m o3 exec --json", "codex -m o3 exec --json resume ID"),
        ("codex", "codex exec --json -", "codex exec --json resume ID -"),
        ("codex", "codex exec --json -- --odd", "codex exec --json resume ID -- --odd"),
        ("codex", "codex exec resume --last x", None),
        ("codex", "codex review", None),
        (
            "gemini",
            "env A=1 gemini -o stream-json -p x",
            "env A=1 gemini --resume ID -o stream-json -p x",
        ),
        ("gemini", "gemini --resume latest -p x", None),
        ("opencode", "opencode run --format json x", "opencode run -s ID --format json x"),
        ("opencode", "opencode run -c x", None),
        ("opencode", "opencode serve", None),
        ("lines", "claude -p", None),
    ],
)
def test_a_session_goes_on_with_the_words_of_its_kind(
    kind: str, command: str, resumed: str | None
) -> None:
    found = KINDS[kind].resumed(shlex.split(command), "ID", "")

    assert (None if resumed is None else shlex.split(resumed)) == found


@pytest.mark.parametrize(
    ("command", "resumed"),
    [
        ("codex exec --json 'fix it'", ["resume", "ID", "fix it\n\nan answer"]),
        ("codex exec --json -- --odd", ["resume", "ID", "--", "--odd\n\nan answer"]),
        ("codex exec --json -", ["resume", "ID", "-"]),
        ("codex exec --json", ["resume", "ID"]),
    ],
)
def test_codex_is_told_in_its_prompt_as_it_reads_no_stdin_beside_one(
    command: str, resumed: list[str]
) -> None:
    """Measured: an answer on stdin alone would be lost."""
    found = KINDS["codex"].resumed(shlex.split(command), "ID", "an answer")

    assert found == ["codex", "exec", "--json", *resumed]


# The time of a reset --------------------------------------------------------------------------

HOUR = 3600


@pytest.mark.parametrize(
    ("told", "after"),
    [
        ("try again at 3:05 PM.", 15 * HOUR + 300),
        ("try again at 15:05", 15 * HOUR + 300),
        ("or try again at Nov 29th, 2026 3:05 PM.", 39 * HOUR + 300),
        ("try again at Dec 1, 3:05 AM", 75 * HOUR + 300),
        ("You've hit your limit · resets 3am (America/New_York)", 8 * HOUR),
        ("5-hour limit reached ∙ resets 12am (Asia/Tokyo)", 15 * HOUR),
        ("resets 12pm", 12 * HOUR),
        ("try again in 2 days 17 hours 14 minutes.", 65 * HOUR + 840),
        ("Please try again in 1.5s.", 1.5),
        ("Please retry in 850ms", 0.85),
        ("Your quota will reset after 3h12m5s.", 3 * HOUR + 725),
        ("try again in 1 hour and 2 minutes", HOUR + 120),
        ("Claude AI usage limit reached|1795831200", 2 * HOUR),
        ("retry after 2026-11-28T04:00:00Z", 4 * HOUR),
        ("retry after 2026-11-28 04:00:00.5+02:00", 2 * HOUR + 0.5),
        ("resets 3am (Nowhere/City)", 3 * HOUR),
        # Nothing that is to come:
        ("try again later", None),
        ("exceeded retry limit, last status: 429 Too Many Requests", None),
        ("at 429", None),
        ("reached|1795820000", None),
        ("try again in 90000 days", None),
        ("try again in " + "9" * 400 + " days", None),
        ("try again at 35:99 PM", None),
        ("try again at Feb 31, 3:05 PM", None),
        ("in 5 apples, at 3 stores", None),
    ],
)
def test_the_time_of_a_reset_is_read_from_words(told: str, after: float | None, utc: None) -> None:
    found = reset_time(told, NOW)

    assert after == (found if found is None else pytest.approx(found - NOW))


@settings(max_examples=100, deadline=None)
@given(told=st.text(alphabet="at in resets after 0123456789:|apmhsd,()Nov-TZ.", max_size=60))
def test_no_words_stop_the_reader(told: str) -> None:
    found = reset_time(told, NOW)

    assert found is None or found > NOW


# The end of a program that hangs ----------------------------------------------------------------


def test_a_program_that_hangs_after_its_last_word_is_asked_and_then_made_to_end() -> None:
    farewell = Farewell()

    assert (None, None) == (farewell.signal_at(0.0, due=None), farewell.left(0.0))
    assert (None, 10.0) == (farewell.signal_at(5.0, due=15.0), farewell.left(5.0))
    assert (None, 1.0) == (farewell.signal_at(14.0, due=15.0), farewell.left(14.0))
    assert signal.SIGTERM == farewell.signal_at(15.0, due=15.0)
    assert GRACE == farewell.left(15.0)
    assert (None, 1.0) == (farewell.signal_at(19.0, due=None), farewell.left(19.0))
    assert signal.SIGKILL == farewell.signal_at(20.0, due=15.0)
    assert (None, None) == (farewell.signal_at(99.0, due=15.0), farewell.left(99.0))


def test_a_program_that_works_on_after_an_end_has_its_time_anew() -> None:
    farewell = Farewell()

    assert farewell.signal_at(0.0, due=10.0) is None
    assert farewell.signal_at(11.0, due=None) is None
    assert farewell.signal_at(12.0, due=22.0) is None
    assert signal.SIGTERM == farewell.signal_at(22.0, due=22.0)


def test_every_kind_names_the_version_that_was_measured() -> None:
    def needs(kind: Kind) -> bool:
        return kind.ends

    assert [] == [name for name, kind in KINDS.items() if needs(kind) and not kind.measured]
    assert Path(STREAMS / "README.md").exists()
