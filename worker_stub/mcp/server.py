"""JSON-RPC over stdio, one message a line, as the Model Context Protocol has it.

It speaks the revisions with `initialize`, and the stateless one, in which each request names its
revision and `server/discover` lists them.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

from worker_stub import names
from worker_stub.agent.desk import ask
from worker_stub.mcp.tools import TOOLS, mistake_in

#: Revisions that begin with `initialize`, the latest first, and those without.
HANDSHAKE, STATELESS = ("2025-11-25", "2025-06-18"), ("2026-07-28",)

#: Bytes of a message.
MAX_MESSAGE = 1024 * 1024

#: Calls that are answered at once; the next one waits.
CALLS = 8

#: Seconds until a call has its answer: a daemon that is away takes ten.
ANSWER = 30.0

#: Milliseconds for which the list of tools stays as it is.
TTL = 3_600_000

PARSE, REQUEST, METHOD, PARAMS, REVISION = -32700, -32600, -32601, -32602, -32022

_VERSION, _SERVER = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/serverInfo"

_INFO = {"name": "dispatcher", "title": "The task you work on", "version": "1.0"}
_ABOUT = (
    "You work on a task of a dispatcher. Read it with task_show, report with task_progress, and end"
    " with task_complete, task_fail, task_hold or task_defer. If a tool tells you to stop, stop."
)
_STOP = "Stop: change nothing more, and end your turn."

#: Asks the adapter.
Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class RpcError(Exception):
    """A request that cannot be answered."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(code, message)
        self.fields = {"code": code, "message": message, **({} if data is None else {"data": data})}


class McpServer:
    """Answers messages; calls of tools in threads of their own."""

    def __init__(self, ask: Ask, write: Callable[[bytes], object]) -> None:
        """`write` takes whole lines."""
        self._ask = ask
        self._write = write
        self._writing = threading.Lock()
        self._places = threading.Semaphore(CALLS)
        self._calls: set[threading.Thread] = set()

    def take(self, line: bytes) -> None:
        """Take a message in; answer it at once, or in its thread."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._send(None, error=RpcError(PARSE, "this is not JSON").fields)
            return
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            if not (isinstance(message, dict) and ("result" in message or "error" in message)):
                self._send(None, error=RpcError(REQUEST, "this is not a request").fields)
            return
        if "id" not in message:
            return  # a notification
        if message["method"] != "tools/call":
            self._answer(message)
            return
        self._places.acquire()
        call = threading.Thread(target=self._call, args=[message], daemon=True)
        self._calls.add(call)
        call.start()

    def finish(self) -> None:
        """Wait for the calls that are not answered yet."""
        for call in list(self._calls):
            call.join(ANSWER)

    def refuse(self, message: str) -> None:
        """Refuse a message that was not read."""
        self._send(None, error=RpcError(REQUEST, message).fields)

    def _call(self, message: Mapping[str, Any]) -> None:
        try:
            self._answer(message)
        finally:
            self._calls.discard(threading.current_thread())
            self._places.release()

    def _answer(self, message: Mapping[str, Any]) -> None:
        number = message["id"]
        given = message.get("params")
        params = given if isinstance(given, dict) else {}
        try:
            result = self._result(message["method"], params)
            if _revision(params) is not None:
                result = {"resultType": "complete", **result}
            self._send(number, result=result)
        except RpcError as error:
            self._send(number, error=error.fields)

    def _result(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        revision = _revision(params)
        if revision not in {None, *STATELESS}:
            known = [*STATELESS, *HANDSHAKE]
            data = {"supported": known, "requested": revision}
            raise RpcError(REVISION, "this revision is not spoken here", data)
        cached = {} if revision is None else {"ttlMs": TTL, "cacheScope": "private"}
        match method:
            case "initialize":
                asked = params.get("protocolVersion")
                return {
                    "protocolVersion": asked if asked in HANDSHAKE else HANDSHAKE[0],
                    "capabilities": {"tools": {}},
                    "serverInfo": _INFO,
                    "instructions": _ABOUT,
                }
            case "server/discover":
                return {
                    "resultType": "complete",
                    "supportedVersions": [*STATELESS, *HANDSHAKE],
                    "capabilities": {"tools": {}},
                    "instructions": _ABOUT,
                    "ttlMs": TTL,
                    "cacheScope": "private",
                    "_meta": {_SERVER: _INFO},
                }
            case "ping":
                return {}
            case "tools/list":
                return {"tools": TOOLS, **cached}
            case "tools/call":
                return self._called(params)
        raise RpcError(METHOD, f"there is no method {method[:100]!r}")

    def _called(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        name = params.get("name")
        tool = next((one for one in TOOLS if one["name"] == name), None)
        if tool is None:
            raise RpcError(PARAMS, f"there is no tool {name!r:.100}")
        arguments = params.get("arguments") or {}
        if (wrong := mistake_in(arguments, tool["inputSchema"])) is not None:
            return _failed(f"{wrong}. Nothing was recorded.")
        try:
            answer = dict(self._ask({**arguments, "op": str(name).removeprefix("task_")}))
        except (OSError, ValueError):
            return _failed(f"The run is over. {_STOP}")
        if answer.pop("ok", False):
            text = json.dumps(answer, ensure_ascii=False)
            return {"content": [{"type": "text", "text": text}], "structuredContent": answer}
        error = answer.get("error")
        then = _STOP if error in names.LOST else "Nothing was recorded."
        message = f"{answer.get('message')}".rstrip(".")
        return _failed(f"{error}: {message}. {then}")

    def _send(self, number: object, **fields: object) -> None:
        line = json.dumps({"jsonrpc": "2.0", "id": number, **fields}).encode() + b"\n"
        with self._writing:
            self._write(line)


def _revision(params: Mapping[str, Any]) -> object:
    """Return the revision that a stateless request names; None: it names none."""
    meta = params.get("_meta")
    return meta.get(_VERSION) if isinstance(meta, dict) else None


def _failed(text: str) -> Mapping[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


def serve(stdin: IO[bytes] | None = None) -> int:
    """Serve over stdin and stdout until stdin ends. Raises RuntimeError outside an agent's run."""
    address = os.environ.get(names.AGENT_SOCKET)
    if not address:
        raise RuntimeError(f"not under `worker_stub agent`: {names.AGENT_SOCKET} is not set")

    def write(line: bytes) -> None:
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except OSError:  # nobody reads any more
            os._exit(0)

    server = McpServer(lambda request: ask(address, request, within=ANSWER), write)
    source = stdin or sys.stdin.buffer
    while line := source.readline(MAX_MESSAGE + 1):
        if len(line) <= MAX_MESSAGE:
            if line.strip():
                server.take(line)
            continue
        while not line.endswith(b"\n") and (line := source.readline(MAX_MESSAGE)):
            pass
        server.refuse(f"a message has at most {MAX_MESSAGE} bytes")
    server.finish()
    return 0
