"""opencode: `opencode run --format json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from worker_stub.agent.facts import (
    Facts,
    Kind,
    ProviderLimit,
    done,
    json_line,
    limit_in,
    line_of,
    number,
    text,
    tool,
    whole,
)
from worker_stub.agent.kinds.place import after_program


def _read(event: Any) -> Facts:
    match event:
        case {"type": "error"}:
            return _error(event)
        case {"type": "step_start", "sessionID": session}:
            return Facts(session=text(session), step=True, doing="a step")
        case {"type": "text", "part": {"text": str(words)}} if words.strip():
            return Facts(doing=line_of(words), said=words)
        case {"type": "tool_use", "part": {} as part}:
            return _tool(part)
        case {"type": "step_finish", "part": {} as part}:
            return _finish(part)
    return Facts()


def _tool(part: Mapping[str, Any]) -> Facts:
    found = part.get("state")
    state: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    given = state.get("input")
    doing = tool(part.get("tool"), given)
    told = state.get("error")
    refused = isinstance(told, str) and "rejected permission" in told
    progress = done(given.get("todos")) if isinstance(given, Mapping) else None
    return Facts(doing=doing, progress=progress, refused=[doing] if refused else [])


def _finish(part: Mapping[str, Any]) -> Facts:
    """Return what the end of a step tells: `stop` is also the end of the agent."""
    tokens = part.get("tokens")
    used: Mapping[str, Any] = tokens if isinstance(tokens, Mapping) else {}
    return Facts(
        cost=number(part.get("cost")),
        tokens=whole(used.get("input"), used.get("output")),
        adds=True,
        succeeded=True if part.get("reason") == "stop" else None,
    )


def _error(event: Mapping[str, Any]) -> Facts:
    found = event.get("error")
    error: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    more = error.get("data")
    data: Mapping[str, Any] = more if isinstance(more, Mapping) else {}
    told = text(data.get("message")) or text(error.get("message")) or f"{error.get('name')}"
    limited = data.get("statusCode") == 429
    return Facts(
        session=text(event.get("sessionID")),
        error=told,
        limit=ProviderLimit(text=told) if limited else limit_in(told),
        succeeded=False,
    )


def _resumed(command: Sequence[str], session: str, _told: str) -> list[str] | None:
    place = after_program(command, "opencode", "opencode-ai")
    if place is None or "run" not in command[place:]:
        return None
    place = command.index("run", place) + 1
    if {"-s", "--session", "-c", "--continue"} & {*command[place:]}:
        return None
    return [*command[:place], "-s", session, *command[place:]]


KIND = Kind(
    program="opencode",
    measured="opencode 1.18.33, November 2026",
    read=json_line(_read),
    resumed=_resumed,
)
