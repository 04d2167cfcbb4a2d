"""What the runs before left for an agent: its session, and what it is told of them."""

import json
import os
from collections.abc import Mapping
from typing import Any

from worker_stub import names
from worker_stub.agent.facts import number, text


class Before:
    """The earlier runs of the task."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read the variables of the run; what cannot be read is as if it were not there."""
        self._checkpoint = _object(environ.get(names.CHECKPOINT))
        self._previous = _object(environ.get(names.PREVIOUS))
        self._answer = _object(environ.get(names.ANSWER))

    def session(self, program: str) -> str | None:
        """Return the session that this program can resume."""
        if self._checkpoint.get("agent") != program:
            return None
        return text(self._checkpoint.get("session"))

    @property
    def spent(self) -> float:
        """The dollars that earlier runs cost."""
        return number(self._checkpoint.get("cost_usd")) or 0.0

    @property
    def own(self) -> object:
        """The checkpoint of the agent itself."""
        return self._checkpoint.get("own")

    @property
    def handed_over(self) -> Mapping[str, Any]:
        """What the task's tools show of them."""
        return {
            "previous": self._previous or None,
            "checkpoint": self.own,
            "question": self._answer.get("question"),
            "answer": self._answer.get("answer"),
        }

    def told(self, *, is_resumed: bool) -> str:
        """Return what the agent should know of them, beside its prompt; "": nothing."""
        lines = []
        if self._previous:
            lines.append(self._ended(with_output=not is_resumed))
        if "answer" in self._answer:
            question = self._answer.get("question") or "(you were held)"
            lines += [f"You asked: {question}", f"A person answered: {self._answer['answer']}"]
        if self.own is not None:
            lines.append(f"Your checkpoint: {json.dumps(self.own, ensure_ascii=False)}")
        if lines:
            lines.append(
                "Continue where you stopped."
                if is_resumed
                else "Look first at what is done already, then continue."
            )
        return "\n".join(lines)

    def _ended(self, *, with_output: bool) -> str:
        outcome, reason = self._previous.get("outcome"), self._previous.get("reason")
        ended = f"An earlier run of this task ended: {outcome}"
        if text(reason):
            ended += f" ({reason})"
        if with_output and text(output := self._previous.get("output")):
            ended += f". Its output is in {output}"
        return f"{ended}."


def _object(given: str | None) -> Mapping[str, Any]:
    try:
        value = json.loads(given or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
