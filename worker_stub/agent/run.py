"""What an agent's stream has told so far, and what it means for the task."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from worker_stub import names
from worker_stub.agent.facts import Facts, Kind, line_of
from worker_stub.agent.resets import reset_time

#: Characters of what the agent said last, in the result.
MAX_SAID = 6000

#: Refused tools that are named.
MAX_REFUSED = 5

#: A session's id: a word that no program takes for an option.
_SESSION = re.compile(r"\w[\w.:-]{0,199}", re.ASCII)

#: Seconds between SIGTERM and SIGKILL for a program that does not exit after its last word.
GRACE = 5.0

#: Exit codes that mean the same without a last word as for any command: again later, held.
PASSED = frozenset({75, 78})


@dataclass(frozen=True, kw_only=True)
class AgentEnd:
    """How a run of an agent ends."""

    op: Literal["succeed", "fail", "defer", "hold", "exit"]
    """`exit`: declare nothing, the exit code counts."""
    reason: str = ""
    until: float | None = None
    """Of `defer`: seconds since 1970; None: unknown."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What the agent itself declared with it."""


class AgentRun:
    """What the events of one run told."""

    def __init__(self, kind: Kind, *, spent: float = 0.0) -> None:
        """`spent`: the dollars of earlier runs."""
        self._kind = kind
        self._spent = spent
        self._cost: float | None = None
        self._tokens: int | None = None
        self._steps = 0
        self._doing = ""
        self._said = ""
        self._error = ""
        self._refused: list[str] = []
        self._limited = False
        self._until: float | None = None
        self._succeeded: bool | None = None
        self.session: str | None = None
        self.progress: float | None = None
        self._has_worked = False

    def see(self, facts: Facts, *, now: float) -> None:
        """Take in an event; `now` in seconds since 1970."""
        if facts.doing is not None:
            self._goes_on(facts.doing)
        self._steps += facts.step
        if facts.session is not None and _SESSION.fullmatch(facts.session):
            self.session = facts.session
        self.progress = self.progress if facts.progress is None else facts.progress
        if facts.said is not None:
            before = self._said if facts.goes_on else ""
            self._said = (before + facts.said)[-MAX_SAID:]
        self._pay(facts)
        refused = dict.fromkeys((*self._refused, *(line_of(one, 100) for one in facts.refused)))
        self._refused = list(refused)[:MAX_REFUSED]
        self._error = facts.error or self._error
        if facts.limit is not None:
            self._limited = True
            exact = facts.limit.until if (facts.limit.until or 0.0) > now else None
            self._until = exact or self._until or reset_time(facts.limit.text, now)
        if facts.succeeded is not None:
            self._succeeded = facts.succeeded

    def _goes_on(self, doing: str) -> None:
        """Note what it does: no earlier end or limit holds."""
        self._doing = doing
        self._has_worked = True
        self._limited, self._until, self._succeeded, self._error = False, None, None, ""

    def _pay(self, facts: Facts) -> None:
        if facts.cost is not None:
            self._cost = facts.cost + (self._cost or 0.0 if facts.adds else 0.0)
        if facts.tokens is not None:
            self._tokens = facts.tokens + (self._tokens or 0 if facts.adds else 0)

    @property
    def has_begun(self) -> bool:
        """Whether the session did something, or could but for its provider."""
        return self._has_worked or self._limited or self._succeeded is True

    @property
    def is_over(self) -> bool:
        """Whether it has said its last word, unless it works again."""
        return self._succeeded is not None or self._limited

    @property
    def note(self) -> str:
        """What it does, for people."""
        return f"step {self._steps}: {self._doing}" if self._doing else ""

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """What the next run needs: the session, and the dollars of all runs so far."""
        cost = self._spent + (self._cost or 0.0)
        known = {"session": self.session, "cost_usd": round(cost, 6) or None}
        return {"agent": self._kind.program, **_given(known)}

    @property
    def result(self) -> Mapping[str, Any]:
        """What people and programs read of a success."""
        told = {
            "steps": self._steps or None,
            "tokens": self._tokens,
            "refused": self._refused or None,
        }
        return {**self.checkpoint, **_given(told)}

    @property
    def last_words(self) -> Mapping[str, Any]:
        """What the agent said last, for a success that has no other result."""
        return _given({"text": _sendable(self._said) or None})

    def end(self, code: int, *, is_verified: bool) -> AgentEnd:
        """Return how the run ends, given the program's exit code.

        `is_verified`: a success will be verified, so that a refused tool does not count.
        """
        if self._succeeded and not (self._refused and not is_verified):
            return AgentEnd(op="succeed")
        if self._succeeded:
            return self._fail(f"it was not allowed to use {', '.join(self._refused)}")
        if self._limited:
            return AgentEnd(op="defer", until=self._until, reason=line_of(self._error))
        if self._succeeded is False:
            return self._fail(self._error or "it failed")
        if not self._kind.ends or code in PASSED:
            return AgentEnd(op="exit")
        what = self._kind.exits.get(code) or self._error or "its stream has no last event"
        return self._fail(f"exit code {code}: {what}")

    def _fail(self, what: str) -> AgentEnd:
        reason = f"{self._kind.program}: {line_of(what, names.MAX_TEXT // 2)}"
        return AgentEnd(op="fail", reason=reason)


class Farewell:
    """Ends a program that goes on after its last word: SIGTERM, then SIGKILL."""

    def __init__(self) -> None:
        self._signals = [signal.SIGTERM, signal.SIGKILL]
        self._due: float | None = None

    def signal_at(self, at: float, *, due: float | None) -> signal.Signals | None:
        """Return the signal to send now, if one is due.

        `due`: when its time is over; None: it works. Once it was asked to end, that is settled.
        """
        if len(self._signals) == 2:
            self._due = due
        if self._due is None or at < self._due:
            return None
        self._due = at + GRACE if len(self._signals) == 2 else None
        return self._signals.pop(0)

    def left(self, at: float) -> float | None:
        """Return the seconds until the next signal; None: none is due."""
        return None if self._due is None else max(0.0, self._due - at)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _sendable(said: str) -> str:
    """Return a text that is UTF-8 and has no NUL."""
    return said.encode("utf-8", "replace").decode().replace("\0", " ").strip()
