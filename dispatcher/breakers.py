"""Breakers: a queue whose runs all fail is closed, until a probe of it succeeds. Pure."""

from typing import Literal, NamedTuple

from msgspec import Struct

from dispatcher.model import Outcome
from dispatcher.named_limits import Breaker, Closing
from dispatcher.policy import COUNTED
from dispatcher.times import StoreTime


class Health(Struct, frozen=True, kw_only=True):
    """What is known of the runs of a queue."""

    running: int
    failures: int
    """Counted ones within the window, since the last success."""
    succeeded_at: StoreTime | None
    """The last success within the window, or since it was closed."""
    probe: Outcome | Literal["open"] | None = None
    """How the run of the probe ended, if it has; None: there is no such run."""


class Decision(NamedTuple):
    """What a claim does with a breaker."""

    room: int | None
    """How many tasks of the queue may start; None: any number."""
    does: Literal["close", "open", "forget the probe"] | None = None
    """What becomes of the breaker."""
    reason: str | None = None
    is_probe: bool = False
    """Whether what starts is a probe."""
    opens_at: StoreTime | None = None
    """When a probe may start, if it closes."""


def decide(breaker: Breaker, closing: Closing, health: Health, now: StoreTime) -> Decision:
    """Return what a claim may start, and what becomes of the breaker.

    A queue without a success within the window runs only so many tasks at once, together with its
    failures, that no more of them can fail than close it.
    """
    if closing.closed_at is not None and closing.probe is None:
        return Decision(0)  # by a person
    if closing.closed_at is not None:
        return _of_closed(breaker, closing, health, now)
    if health.failures >= breaker.many:
        reason = f"{health.failures} failures within {breaker.window_ms}, and no success"
        return _closes(breaker, reason, now)
    if health.succeeded_at is not None:
        return Decision(None)
    return Decision(max(0, breaker.many - health.failures - health.running))


def _closes(breaker: Breaker, reason: str, now: StoreTime) -> Decision:
    return Decision(0, "close", reason, opens_at=StoreTime(now + breaker.cooldown_ms))


def _of_closed(breaker: Breaker, closing: Closing, health: Health, now: StoreTime) -> Decision:
    """Decide of one that a breaker closed."""
    since = closing.closed_at or now
    has_succeeded = health.succeeded_at is not None and health.succeeded_at > since
    if has_succeeded or health.probe is Outcome.SUCCEEDED:
        return Decision(None, "open", "a run of the queue has succeeded")
    if closing.closed_until is not None and closing.closed_until > now:
        return Decision(0)
    if not closing.probe or health.probe is None:
        return Decision(1, is_probe=True)
    if health.probe == "open":
        return Decision(0)
    if health.probe in COUNTED:
        return _closes(breaker, f"its probe failed, too: {health.probe}", now)
    return Decision(1, "forget the probe", is_probe=True)
