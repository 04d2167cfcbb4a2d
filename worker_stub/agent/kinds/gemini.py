"""Gemini CLI: `gemini -p … -o stream-json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from worker_stub.agent.facts import (
    Facts,
    Kind,
    done,
    json_line,
    limit_in,
    line_of,
    text,
    tool,
    whole,
)
from worker_stub.agent.kinds.place import after_program


def _read(event: Any) -> Facts:
    match event:
        case {"type": "init", "session_id": session}:
            return Facts(session=text(session))
        case {"type": "error", "message": str(told)}:
            return Facts(error=told)
        case {"type": "result"}:
            return _result(event)
    return _work(event)


def _work(event: Any) -> Facts:
    match event:
        case {"type": "message", "role": "assistant", "content": str(words)} if words.strip():
            goes_on = event.get("delta") is True
            return Facts(step=not goes_on, doing=line_of(words), said=words, goes_on=goes_on)
        case {"type": "tool_use", "tool_name": str(name)}:
            given = event.get("parameters")
            progress = done(given.get("todos")) if isinstance(given, Mapping) else None
            return Facts(step=True, doing=tool(name, given), progress=progress)
        case {"type": "tool_result", "status": "error", "error": {} as error}:
            return Facts(refused=["a tool"] if _is_refused(error) else [])
    return Facts()


def _is_refused(error: Mapping[str, Any]) -> bool:
    kind, told = error.get("type"), error.get("message")
    return kind == "policy_violation" or (isinstance(told, str) and "denied by policy" in told)


def _result(event: Mapping[str, Any]) -> Facts:
    failed = event.get("status") != "success"
    error, stats = event.get("error"), event.get("stats")
    told = text(error.get("message")) if isinstance(error, Mapping) else None
    used: Mapping[str, Any] = stats if isinstance(stats, Mapping) else {}
    return Facts(
        error=(told or "the agent failed") if failed else None,
        limit=limit_in(told) if failed else None,
        tokens=whole(used.get("total_tokens")),
        succeeded=not failed,
    )


def _resumed(command: Sequence[str], session: str, _told: str) -> list[str] | None:
    place = after_program(command, "gemini", "@google/gemini-cli")
    if place is None or {"--resume", "-r"} & {*command[place:]}:
        return None
    return [*command[:place], "--resume", session, *command[place:]]


KIND = Kind(
    program="gemini",
    measured="Gemini CLI 0.61.0, November 2026; refusals and exit codes as documented",
    read=json_line(_read),
    resumed=_resumed,
    exits={
        41: "nobody is logged in",
        42: "its input is wrong",
        52: "its configuration is wrong",
        53: "its turns are used up",
        54: "a tool failed for good",
    },
)
