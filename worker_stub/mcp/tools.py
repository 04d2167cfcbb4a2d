"""The tools of a task, as an agent sees them."""

from collections.abc import Mapping
from typing import Any

from worker_stub import names

Schema = Mapping[str, Any]

_ANY: Schema = {"description": "any JSON"}
_MAYBE: Schema = {"type": ["string", "null"]}
_DECLARED: Schema = {
    "type": "object",
    "properties": {"declared": {"type": "string"}, "next": {"type": "string"}},
    "required": ["declared", "next"],
}


def _text(description: str, most: int = names.MAX_TEXT) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": most, "description": description}


def _tool(
    name: str,
    description: str,
    takes: Mapping[str, Schema],
    gives: Schema,
    *,
    required: tuple[str, ...] = (),
    reads: bool = False,
) -> Schema:
    return {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": takes,
            "required": list(required),
            "additionalProperties": False,
        },
        "outputSchema": gives,
        "annotations": {
            "readOnlyHint": reads,
            "destructiveHint": False,
            "idempotentHint": True,
            "openWorldHint": False,
        },
    }


TOOLS: tuple[Schema, ...] = (
    _tool(
        "task_show",
        "Read your task: its payload, how the run before ended, your last checkpoint, the results"
        " of the tasks it waited for, and the answer of a person to your question. Use it first.",
        {},
        {
            "type": "object",
            "properties": {
                "task_id": {"type": "integer"},
                "attempt": {"type": "integer"},
                "queue": _MAYBE,
                "payload": _ANY,
                "previous": {"type": ["object", "null"]},
                "checkpoint": _ANY,
                "parents": {"type": "array"},
                "question": _MAYBE,
                "answer": _MAYBE,
            },
            "required": ["task_id", "attempt"],
        },
        reads=True,
    ),
    _tool(
        "task_progress",
        "Report progress, and keep your claim of the task. Use it before and during long work, and"
        " after each part: a checkpoint is what you find if you are interrupted and run again.",
        {
            "progress": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": "the done part of the whole",
            },
            "note": _text("what you do now, in one line"),
            "checkpoint": {"description": "any JSON, at most 28 KiB: what to go on with"},
        },
        {
            "type": "object",
            "properties": {
                "lease_expires_in": {"type": ["number", "null"], "description": "seconds"},
                "next": {"type": "string"},
            },
            "required": ["lease_expires_in"],
        },
    ),
    _tool(
        "task_complete",
        "Declare that the task is done. Use it once, as your last action, and only when the work is"
        " finished and checked.",
        {"result": {"description": "any JSON, at most 28 KiB: what others need of it"}},
        _DECLARED,
    ),
    _tool(
        "task_fail",
        "Declare that the task failed. Use it as your last action when you cannot do the work."
        " It runs again while it has attempts, unless `retry` is false.",
        {
            "reason": _text("why, for people"),
            "retry": {"type": "boolean", "description": "false: no other run can succeed"},
        },
        _DECLARED,
        required=("reason",),
    ),
    _tool(
        "task_hold",
        "Ask a person, and stop until they answer: the next run finds the answer in task_show. Use"
        " it as your last action when you need a decision, a right, or a secret.",
        {
            "question": _text("the question, with the choices and your advice", names.MAX_QUESTION),
            "kind": {
                "type": "string",
                "enum": ["needs_input", "capability", "approval"],
                "description": "what you need: an answer, a right or tool, or a yes",
            },
        },
        _DECLARED,
        required=("question",),
    ),
    _tool(
        "task_defer",
        "Stop now, and run again later without a loss of an attempt. Use it as your last action"
        " when something is not ready yet, or a provider refuses more use.",
        {
            "until": _text("a date with its zone, as 2026-08-01T06:00:00Z", 100),
            "delay": {"type": "number", "minimum": 0, "maximum": names.MAX_DELAY},
            "limit": _text("the limit of the task that lets nothing start until then", 200),
            "reason": _text("why, for people"),
        },
        _DECLARED,
    ),
)


def mistake_in(arguments: object, schema: Schema) -> str | None:
    """Return what is wrong with a tool's arguments; None: nothing."""
    if not isinstance(arguments, dict):
        return "the arguments must be an object"
    known = schema["properties"]
    for name in schema["required"]:
        if name not in arguments:
            return f"{name}: is required"
    for name, value in arguments.items():
        if name not in known:
            return f"{name}: is unknown; there is {', '.join(known) or 'none'}"
        if (wrong := _mistake(value, known[name])) is not None:
            return f"{name}: {wrong}"
    return None


def _mistake(value: object, schema: Schema) -> str | None:
    kind = schema.get("type")
    if kind == "string":
        return _mistake_in_text(value, schema)
    if kind == "boolean" and not isinstance(value, bool):
        return "must be true or false"
    if kind == "number":
        least, most = schema["minimum"], schema["maximum"]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            return f"must be a number from {least} to {most}"
    return None


def _mistake_in_text(value: object, schema: Schema) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return "must be a text"
    if (one_of := schema.get("enum")) is not None:
        return None if value in one_of else f"must be one of {', '.join(one_of)}"
    if len(value) > schema["maxLength"]:
        return f"must have at most {schema['maxLength']} characters, not {len(value)}"
    return None
