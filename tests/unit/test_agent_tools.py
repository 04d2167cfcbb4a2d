"""The tools of a task: the MCP server, the adapter's desk, and what becomes of a declaration."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.eventually import eventually
from tests.unit.agents import ROOT, FakeDaemon, Run, agent, daemon
from worker_stub import Refused, Worker, names
from worker_stub.agent import adapter, spokesman
from worker_stub.agent.desk import Desk, ask, path_of
from worker_stub.agent.handover import Before
from worker_stub.agent.spokesman import MAX_OWN, Spokesman
from worker_stub.daemon_socket import Unreachable
from worker_stub.mcp import server as mcp
from worker_stub.mcp.server import HANDSHAKE, STATELESS, McpServer
from worker_stub.mcp.tools import TOOLS, mistake_in

__all__ = ["agent", "daemon"]

NAMES = [
    *("task_show", "task_progress", "task_complete", "task_fail", "task_hold", "task_defer"),
]


class Talk:
    """A client in this process, and an adapter that gives the test's answers."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.answer: Mapping[str, Any] | Exception = {"ok": True, "declared": "x", "next": "y"}
        self.lines: list[dict[str, Any]] = []
        self.server = McpServer(self._ask, self._write)

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _write(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        assert 1 == line.count(b"\n")
        self.lines.append(json.loads(line))

    def send(self, message: object) -> list[dict[str, Any]]:
        """Send a message; return the answers."""
        before = len(self.lines)
        self.server.take(message if isinstance(message, bytes) else json.dumps(message).encode())
        self.server.finish()
        return self.lines[before:]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        (answer,) = self.send({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
        assert ("2.0", 7) == (answer["jsonrpc"], answer["id"])
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.ask("tools/call", name=tool, arguments=arguments)["result"]
        return result


@pytest.fixture
def talk() -> Talk:
    return Talk()


# The protocol -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "spoken"),
    [(HANDSHAKE[1], HANDSHAKE[1]), (HANDSHAKE[0], HANDSHAKE[0]), ("2031-01-01", HANDSHAKE[0])],
)
def test_a_handshake_gives_the_revision_that_is_asked_for_or_the_latest(
    talk: Talk, asked: str, spoken: str
) -> None:
    result = talk.ask("initialize", protocolVersion=asked, capabilities={}, clientInfo={})["result"]

    assert (spoken, {"tools": {}}) == (result["protocolVersion"], result["capabilities"])
    assert {"name", "version"} <= result["serverInfo"].keys()
    assert [] == talk.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert {} == talk.ask("ping")["result"]
    listed = talk.ask("tools/list")["result"]
    assert {"tools"} == listed.keys()
    assert NAMES == [tool["name"] for tool in listed["tools"]]


def test_each_tool_says_when_to_use_it_and_what_it_does_to_the_world() -> None:
    for tool in TOOLS:
        assert {"readOnlyHint", "destructiveHint"} <= tool["annotations"].keys()
        assert tool["annotations"]["destructiveHint"] is False
        assert tool["inputSchema"]["additionalProperties"] is False
        assert "object" == tool["outputSchema"]["type"]
        assert "Use it" in tool["description"]
    assert [True, *[False] * 5] == [tool["annotations"]["readOnlyHint"] for tool in TOOLS]


def test_a_stateless_client_needs_no_handshake(talk: Talk) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": STATELESS[0]}

    found = talk.ask("server/discover", _meta=meta)["result"]
    listed = talk.ask("tools/list", _meta=meta)["result"]
    called = talk.ask("tools/call", name="task_complete", _meta=meta)["result"]

    assert {*STATELESS, *HANDSHAKE} == {*found["supportedVersions"]}
    assert ["complete"] * 3 == [one["resultType"] for one in (found, listed, called)]
    for cached in (found, listed):
        assert {"ttlMs", "cacheScope"} <= cached.keys()


def test_a_revision_that_is_not_spoken_is_refused_with_those_that_are(talk: Talk) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}

    error = talk.ask("tools/list", _meta=meta)["error"]

    assert (-32022, "2031-01-01") == (error["code"], error["data"]["requested"])
    assert STATELESS[0] in error["data"]["supported"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe\n", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"jsonrpc": "2.0", "id": 7}', -32600),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "resources/list"}', -32601),
        (b'{"id": 7, "method": "tools/call", "params": {"name": "nobody"}}', -32602),
        (b'{"id": 7, "method": "tools/call", "params": []}', -32602),
        (b'{"id": 7, "method": "tools/call", "params": {"name": ["task_show"]}}', -32602),
    ],
    ids=lambda sent: repr(sent)[:40],
)
def test_garbage_is_answered_and_survived(talk: Talk, sent: bytes, code: int) -> None:
    (answer,) = talk.send(sent)

    assert code == answer["error"]["code"]
    assert {} == talk.ask("ping")["result"]


def test_answers_and_notifications_of_a_client_are_not_answered(talk: Talk) -> None:
    for message in (
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}},
    ):
        assert [] == talk.send(message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(["initialize", "tools/list", "tools/call", "server/discover"]),
    name=st.sampled_from(NAMES) | JSON,
    arguments=st.dictionaries(
        st.sampled_from(["progress", "note", "until", "delay", "kind", "question"]), JSON
    )
    | JSON,
    meta=JSON,
)
def test_whatever_a_request_holds_it_has_one_answer(
    method: str, name: Any, arguments: Any, meta: Any
) -> None:
    params = {"name": name, "arguments": arguments, "_meta": meta, "protocolVersion": meta}
    answers = Talk().send({"jsonrpc": "2.0", "id": "x", "method": method, "params": params})

    assert ["x"] == [answer["id"] for answer in answers]


def test_calls_that_wait_hold_up_no_other(talk: Talk) -> None:
    """A daemon that is away for one call keeps neither a ping nor another call waiting."""
    go_on, begun = threading.Event(), threading.Event()

    def wait(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if "note" in request:
            begun.set()
            go_on.wait()
        return {"ok": True}

    talk.server._ask = wait
    for number in (1, 2):
        params = {"name": "task_progress", "arguments": {"note": "x"} if number == 1 else {}}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        talk.server.take(json.dumps(message).encode())
        begun.wait()

    eventually(lambda: _equal([2], [line["id"] for line in talk.lines]))
    talk.server.take(b'{"jsonrpc": "2.0", "id": 3, "method": "ping"}')
    assert [2, 3] == [line["id"] for line in talk.lines]
    go_on.set()
    talk.server.finish()
    assert [2, 3, 1] == [line["id"] for line in talk.lines]


def _equal(expected: object, found: object) -> None:
    assert expected == found


def test_a_message_that_is_too_long_is_refused_and_the_next_one_answered(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv(names.AGENT_SOCKET, "@nobody")
    ping = b'{"jsonrpc": "2.0", "id": 7, "method": "ping"}\n'
    long = b'{"jsonrpc": "2.0", "x": "' + b"x" * 10_000_000 + b'"}\n'

    assert 0 == mcp.serve(io.BytesIO(long + b"\n" + ping + ping.rstrip()))

    first, *rest = map(json.loads, capfdbinary.readouterr().out.splitlines())
    assert "at most 1048576 bytes" in first["error"]["message"]
    assert [7, 7] == [one["id"] for one in rest]


def test_a_server_outside_an_agents_run_says_so() -> None:
    bare = {name: value for name, value in os.environ.items() if "DISPATCHER" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "worker_stub", "mcp"],
        env=bare,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 2 == done.returncode
    assert "DISPATCHER_AGENT_SOCKET is not set" in done.stderr


# Arguments and answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "wrong"),
    [
        ("task_progress", {"progress": 2}, "progress: must be a number from 0 to 1"),
        ("task_progress", {"progress": True}, "progress: must be a number from 0 to 1"),
        ("task_progress", {"progress": "0.5"}, "progress: must be a number"),
        ("task_progress", {"percent": 5}, "percent: is unknown; there is progress, note"),
        ("task_progress", {"note": ""}, "note: must be a text"),
        ("task_progress", {"note": "x" * 5000}, "note: must have at most 4096 characters"),
        ("task_fail", {}, "reason: is required"),
        ("task_fail", {"reason": "x", "retry": "no"}, "retry: must be true or false"),
        ("task_hold", {"question": "?", "kind": "mood"}, "kind: must be one of needs_input"),
        ("task_show", {"id": 1}, "id: is unknown; there is none"),
    ],
)
def test_wrong_arguments_are_a_tool_error_that_names_them(
    talk: Talk, tool: str, arguments: dict[str, Any], wrong: str
) -> None:
    result = talk.call(tool, **arguments)

    assert result["isError"] is True
    assert wrong in result["content"][0]["text"]
    assert "Nothing was recorded." in result["content"][0]["text"]
    assert [] == talk.asked


def test_arguments_that_are_no_object_are_refused() -> None:
    assert "the arguments must be an object" == mistake_in([1], TOOLS[0]["inputSchema"])


@pytest.mark.parametrize("error", sorted(names.LOST))
def test_a_lost_claim_is_a_tool_error_that_tells_the_agent_to_stop(talk: Talk, error: str) -> None:
    talk.answer = {"ok": False, "error": error, "message": "a newer run owns the task."}

    result = talk.call("task_progress")

    assert result["isError"] is True
    assert f"{error}: a newer run owns the task. Stop" in result["content"][0]["text"]
    assert "structuredContent" not in result


def test_an_adapter_that_is_gone_means_that_the_run_is_over(talk: Talk) -> None:
    talk.answer = ConnectionRefusedError()

    assert "The run is over. Stop" in talk.call("task_progress")["content"][0]["text"]


def test_an_answer_is_the_same_as_text_and_structured(talk: Talk) -> None:
    talk.answer = {"ok": True, "lease_expires_in": 60.0}

    result = talk.call("task_progress", progress=0.5)

    assert {"lease_expires_in": 60.0} == result["structuredContent"]
    assert result["structuredContent"] == json.loads(result["content"][0]["text"])
    assert [{"op": "progress", "progress": 0.5}] == talk.asked


# The spokesman ------------------------------------------------------------------------------------


class Speaking:
    """A spokesman with a claim, and what it told the adapter."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.declares = 0
        self.lost: list[Refused] = []
        self.man = Spokesman(
            Worker(beats="calls"), Before(), declares=self._declares, lost=self.lost.append
        )

    def _declares(self) -> None:
        self.declares += 1


@pytest.fixture
def speaking(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Speaking:
    monkeypatch.setattr(spokesman, "LAST_WORDS", 0.0)
    return Speaking(daemon)


def test_progress_renews_the_lease_each_time(speaking: Speaking, daemon: FakeDaemon) -> None:
    for step in range(20):
        answer = speaking.man.answer({"op": "progress", "progress": step / 20, "note": "on"})
        assert {"ok": True, "lease_expires_in": 60.0} == answer

    assert [step / 20 for step in range(20)] == [one["progress"] for one in daemon.beats]


@pytest.mark.parametrize(
    ("request_", "op", "more"),
    [
        ({"op": "complete", "result": {"rows": 3}}, "succeed", {"result": {"rows": 3}}),
        ({"op": "complete"}, "succeed", {}),
        ({"op": "fail", "reason": "no"}, "fail", {"retry": True}),
        ({"op": "fail", "reason": "no", "retry": False}, "fail", {"retry": False}),
        ({"op": "hold", "question": "?"}, "hold", {"question": "?", "kind": "needs_input"}),
        ({"op": "defer", "delay": 5, "limit": "a"}, "defer", {"limit": "a"}),
    ],
)
def test_a_declaration_is_kept_until_the_agent_has_exited(
    speaking: Speaking, daemon: FakeDaemon, request_: dict[str, Any], op: str, more: dict[str, Any]
) -> None:
    answer = speaking.man.answer(request_)

    assert (True, request_["op"]) == (answer["ok"], answer["declared"])
    assert "End your turn" in str(answer["next"])
    declared = speaking.man.declared
    assert declared is not None
    assert (op, more) == (declared.op, declared.more)
    assert daemon.requests == daemon.beats, "the claim is confirmed first"
    assert (1, 1) == (len(daemon.beats), speaking.declares)


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "dance"},
        {"op": "fail"},
        {"op": "fail", "reason": 7},
        {"op": "fail", "reason": "\0 "},
        {"op": "fail", "reason": "\ud83d"},
        {"op": "hold", "question": "x" * 16_385},
        {"op": "hold", "question": "?", "kind": "mood"},
        {"op": "defer", "until": "tomorrow"},
        {"op": "defer", "until": "2026-08-01T06:00:00"},
        {"op": "defer", "delay": -1},
        {"op": "complete", "result": "x" * MAX_OWN},
        {"op": "progress", "checkpoint": "x" * MAX_OWN},
        {"op": "progress", "progress": 7},
        {},
    ],
    ids=lambda one: str(one)[:40],
)
def test_what_the_daemon_would_refuse_is_refused_at_once(
    speaking: Speaking, daemon: FakeDaemon, request_: dict[str, Any]
) -> None:
    with closing(Desk(speaking.man.answer)) as desk:
        answer = ask(desk.address, request_, within=60)

    assert (False, "invalid") == (answer["ok"], answer["error"])
    assert speaking.man.declared is None
    assert [] == daemon.beats


def test_a_refusal_is_answered_and_ends_the_run(speaking: Speaking, daemon: FakeDaemon) -> None:
    def seen(_: dict[str, Any]) -> None:
        raise Refused("superseded", "a newer run owns the task")

    daemon.seen = seen
    for request in ({"op": "progress"}, {"op": "complete"}):
        answer = speaking.man.answer(request)
        assert (False, "superseded") == (answer["ok"], answer["error"])
    eventually(lambda: _equal(2, len(speaking.lost)))
    assert speaking.man.declared is None


def test_a_daemon_that_is_away_refuses_nothing(speaking: Speaking, daemon: FakeDaemon) -> None:
    def seen(_: dict[str, Any]) -> None:
        raise Unreachable("away")

    daemon.seen = seen
    answer = speaking.man.answer({"op": "progress", "note": "on", "checkpoint": [1]})
    assert (True, None) == (answer["ok"], answer["lease_expires_in"])
    assert speaking.man.answer({"op": "complete"})["ok"]
    assert [1] == speaking.man.checkpoint


def test_a_desk_serves_this_user_alone_and_survives_garbage(daemon: FakeDaemon) -> None:
    asked: list[object] = []

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"ok": True}

    with closing(Desk(handle)) as desk:
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(path_of(desk.address))
            rude.sendall(b"{\n[\n")
            with rude.makefile("rb") as lines:
                assert ["invalid", "invalid"] == [
                    json.loads(lines.readline())["error"] for _ in range(2)
                ]
        assert {"ok": True} == ask(desk.address, {"op": "x"}, within=60)
    with pytest.raises(OSError, match="refused"):
        ask(desk.address, {"op": "x"}, within=60)


# The whole way ------------------------------------------------------------------------------------


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run finds of others."""
    monkeypatch.setenv(names.PARENTS, '[{"id": 3, "result": {"rows": 1}}]')
    monkeypatch.setenv(names.ANSWER, json.dumps({"question": "Which?", "answer": "blue"}))
    monkeypatch.setenv(names.CHECKPOINT, json.dumps({"agent": "codex", "own": {"step": 3}}))


def test_an_agent_reads_reports_and_completes_its_task_through_its_tools(
    agent: Run, daemon: FakeDaemon, handed: None
) -> None:
    """And never finds the lock, though it looks where its tools run."""
    body = """
        tools = Tools()
        shown = tools.call("task_show")
        assert (7, "blue", {"step": 3}) == (shown["task_id"], shown["answer"], shown["checkpoint"])
        assert [{"id": 3, "result": {"rows": 1}}] == shown["parents"], shown
        seen = open(f"/proc/{tools.server.pid}/environ").read() + json.dumps(shown)
        assert "secret" not in seen and "secret" not in json.dumps(dict(os.environ))
        told = tools.call("task_progress", note="half", checkpoint={"step": 4})
        assert 60 == told["lease_expires_in"]
        assert "complete" == tools.call("task_complete", result={"rows": 9})["declared"]
        tools.server.stdin.close()
        tools.server.wait()
        say("failed")
    """
    assert 0 == agent("claude", body)
    assert ("succeed", {"rows": 9}) == (daemon.declared["op"], daemon.declared["result"]["result"])
    assert "half" in daemon.notes
    assert {"step": 4} == daemon.checkpoint["own"]
    assert daemon.checkpoint["session"]


def test_a_question_of_an_agent_holds_its_task_although_it_hangs(
    agent: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PATIENCE", 0.1)
    body = """
        Tools().call("task_hold", question="Which one?", kind="approval")
        hang()
    """
    assert 78 == agent("claude", body)
    held = {"op": "hold", "reason": "Which one?", "question": "Which one?", "kind": "approval"}
    assert held == daemon.declared


def test_what_an_agent_completes_is_verified(agent: Run, daemon: FakeDaemon) -> None:
    body = 'Tools().call("task_complete"); say("healthy")'

    assert 1 == agent("claude", body, "--verify", "echo bad; false")
    assert "not verified: exit code 1: bad" == daemon.declared["reason"]


def test_an_agent_defers_and_closes_a_limit(agent: Run, daemon: FakeDaemon) -> None:
    body = 'Tools().call("task_defer", delay=600, limit="anthropic", reason="full")'

    assert 75 == agent("claude", body)
    declared = daemon.declared
    assert ("defer", "anthropic", "full") == (declared["op"], declared["close"], declared["reason"])
    assert 500 < declared["delay"] <= 600
