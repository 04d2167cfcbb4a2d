"""Codex: `codex exec --json`."""

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

#: Options of `codex exec` with a value of their own.
_VALUED = frozenset(
    {
        *("-c", "--config", "--enable", "--disable", "--remote", "--remote-auth-token-env"),
        *("-i", "--image", "-m", "--model", "--local-provider", "-p", "--profile"),
        *("-s", "--sandbox", "-C", "--cd", "--add-dir", "--thread-source", "--color"),
        *("--cyber-access-program", "--output-schema", "-o", "--output-last-message"),
    }
)


def _read(event: Any) -> Facts:
    match event:
        case {"type": "thread.started", "thread_id": session}:
            return Facts(session=text(session))
        case {"type": "item.started" | "item.updated" | "item.completed", "item": {} as item}:
            return _item(item, is_step=event["type"] == "item.completed")
        case {"type": "turn.completed"}:
            usage = event.get("usage")
            used: Mapping[str, Any] = usage if isinstance(usage, Mapping) else {}
            tokens = whole(used.get("input_tokens"), used.get("output_tokens"))
            return Facts(tokens=tokens, succeeded=True)
        case {"type": "turn.failed"}:
            error = event.get("error")
            told = text(error.get("message")) if isinstance(error, Mapping) else None
            return Facts(error=told or "the turn failed", limit=limit_in(told), succeeded=False)
        case {"type": "error", "message": str(told)}:
            return Facts(error=told, limit=limit_in(told))
    return Facts()


def _item(item: Mapping[str, Any], *, is_step: bool) -> Facts:
    doing, said = None, None
    match item:
        case {"type": "agent_message", "text": str(words)} if words.strip():
            doing, said = line_of(words), words
        case {"type": "reasoning", "text": str(words)} if words.strip():
            doing = line_of(words)
        case {"type": "command_execution"}:
            doing = tool("command", item)
        case {"type": "mcp_tool_call"}:
            doing = tool(f"{item.get('server')}.{item.get('tool')}", item.get("arguments"))
        case {"type": "todo_list", "items": items}:
            return Facts(progress=done(items), doing="its list")
        case {"type": "error", "message": str(told)}:
            return Facts(error=told)
        case {"type": str(name)}:
            doing = tool(name, item)
    refused = [doing or "a tool"] if _is_refused(item) else []
    return Facts(step=is_step, doing=doing, said=said, refused=refused)


def _is_refused(item: Mapping[str, Any]) -> bool:
    match item:
        case {"status": "declined"}:
            return True
        case {"type": "mcp_tool_call", "error": {"message": str(told)}}:
            return "cancelled" in told or "rejected" in told
    return False


def _resumed(command: Sequence[str], session: str, told: str) -> list[str] | None:
    """Put `resume ID` before the prompt: not all options of `exec` may follow it.

    What is told is added to the prompt: beside one, `resume` does not read stdin.
    """
    program = after_program(command, "codex", "@openai/codex")
    if program is None or not {"exec", "e"} & {*command[program:]}:
        return None
    place = next(n for n in range(program, len(command)) if command[n] in {"exec", "e"}) + 1
    while place < len(command) and command[place].startswith("-") and command[place] != "-":
        if command[place] == "--":
            break
        place += 2 if command[place] in _VALUED else 1
    if place < len(command) and command[place] in {"resume", "fork", "review"}:
        return None
    rest = list(command[place:])
    if told and rest and rest[-1] != "-":
        rest[-1] = f"{rest[-1]}\n\n{told}"
    return [*command[:place], "resume", session, *rest]


KIND = Kind(
    program="codex",
    measured="Codex 0.171.0, November 2026",
    read=json_line(_read),
    resumed=_resumed,
)
