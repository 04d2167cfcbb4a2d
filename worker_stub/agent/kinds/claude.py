"""Claude Code: `claude -p --output-format stream-json --verbose`."""

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
from worker_stub.agent.kinds.place import after_program, without


def _read(event: Any) -> Facts:
    match event:
        case {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected"} as info} if (
            info.get("isUsingOverage") is not True
        ):
            return Facts(limit=ProviderLimit(until=number(info.get("resetsAt"))))
        case {"type": "assistant", "message": {"content": list(parts)} as message}:
            synthetic = message.get("model") == "<synthetic>" or "error" in event
            return _failing(event, parts) if synthetic else _working(event, parts)
        case {"type": "result"}:
            return _result(event)
        case {"type": str(), "session_id": session}:
            return Facts(session=text(session))
    return Facts()


def _working(event: Mapping[str, Any], parts: Sequence[Any]) -> Facts:
    doing, said, progress = None, None, None
    for part in parts:
        match part:
            case {"type": "text", "text": str(words)} if words.strip():
                doing, said = line_of(words), words
            case {"type": "tool_use", "name": str(name)}:
                given = part.get("input")
                doing = tool(name, given)
                if isinstance(given, Mapping):
                    progress = done(given.get("todos"))
    return Facts(
        session=text(event.get("session_id")),
        step=True,
        doing=doing,
        said=said,
        progress=progress,
    )


def _failing(event: Mapping[str, Any], parts: Sequence[Any]) -> Facts:
    """Return what a message tells that is the program's own, not its model's."""
    words = " ".join(
        part["text"]
        for part in parts
        if isinstance(part, Mapping) and isinstance(part.get("text"), str)
    )
    limited = event.get("error") == "rate_limit"
    limit = ProviderLimit(text=words) if limited else limit_in(text(words))
    return Facts(error=text(words), limit=limit)


def _result(event: Mapping[str, Any]) -> Facts:
    failed = event.get("is_error") is True or event.get("subtype") != "success"
    denied = event.get("permission_denials")
    errors = event.get("errors")
    told = text(event.get("result")) or "; ".join(
        one for one in (errors if isinstance(errors, list) else ()) if isinstance(one, str)
    )
    usage = event.get("usage")
    used: Mapping[str, Any] = usage if isinstance(usage, Mapping) else {}
    limited = failed and event.get("api_error_status") == 429
    return Facts(
        session=text(event.get("session_id")),
        said=None if failed else text(told),
        error=(text(told) or f"{event.get('subtype')}") if failed else None,
        cost=number(event.get("total_cost_usd")),
        tokens=whole(used.get("input_tokens"), used.get("output_tokens")),
        limit=ProviderLimit(text=told) if limited else limit_in(told) if failed else None,
        refused=[
            f"{one.get('tool_name')}"
            for one in (denied if isinstance(denied, list) else ())
            if isinstance(one, Mapping)
        ],
        succeeded=not failed,
    )


def _resumed(command: Sequence[str], session: str, _told: str) -> list[str] | None:
    place = after_program(command, "claude", "@anthropic-ai/claude-code")
    if place is None or {"--resume", "-r", "--continue", "-c"} & {*command[place:]}:
        return None
    rest = without(command[place:], "--session-id")
    return [*command[:place], "--resume", session, *rest]


KIND = Kind(
    program="claude",
    measured="Claude Code 2.1.197, November 2026",
    read=json_line(_read),
    resumed=_resumed,
)
