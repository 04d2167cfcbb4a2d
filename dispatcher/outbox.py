"""What waits to be sent between daemon and executor: of each run one message of a kind.

So a peer that does not read costs no more memory than it has runs, however much happens meanwhile.
"""

from __future__ import annotations

from typing import TypeVar, cast

from dispatcher import wire

M = TypeVar("M", bound=wire.Message)

Deadlines = dict[wire.RunUid, dict[str, float]]

#: What is said anew behind all that was said before: an answer stands for all that was known when
#: it was given, and a deadline is moved only where the run was started.
_ANEW = (wire.Renew, wire.Ping, wire.Pong)


class Outbox:
    """Messages in the order in which they were first said, each with the latest that it says."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[object, ...], wire.Message] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, message: wire.Message) -> None:
        """Have a message sent, or the one of its kind that waits say this too."""
        key = _key(message)
        if (before := self._waiting.get(key)) is not None:
            message = _joined(before, message)
            if isinstance(message, _ANEW):
                del self._waiting[key]
        self._waiting[key] = message

    def encoded(self) -> bytes:
        """Return the lines that wait."""
        return b"".join(wire.encode(message) + b"\n" for message in self._waiting.values())

    def take(self) -> bytes:
        """Return the lines that wait, which then do so no more."""
        lines = self.encoded()
        self._waiting.clear()
        return lines

    def clear(self) -> None:
        """Drop what waits."""
        self._waiting.clear()


def _key(message: wire.Message) -> tuple[object, ...]:
    if isinstance(message, wire.Stray):
        return (wire.Stray, *message.candidates)
    return (type(message), getattr(message, "uid", None))


def _joined(before: wire.Message, after: M) -> M:
    """Return one message that says what both say."""
    match before, after:
        case wire.Changed(), wire.Changed():
            joined: wire.Message = wire.Changed(
                uid=after.uid,
                state=after.state,
                exit=after.exit or before.exit,
                ended_by=after.ended_by or before.ended_by,
                reason=after.reason or before.reason,
            )
        case wire.Notice(), wire.Notice():
            joined = merged(before, after)
        case wire.Renew(), wire.Renew():
            joined = wire.Renew(deadlines=_later(before.deadlines, after.deadlines))
        case wire.End(), wire.End():
            at_once = before.at_once or after.at_once
            graces = [end.longest_grace for end in (before, after) if end.longest_grace is not None]
            joined = wire.End(
                uid=after.uid,
                reason=after.reason,
                at_once=at_once,
                longest_grace=min(graces, default=None),
            )
        case _:
            joined = after
    return cast("M", joined)


def _later(before: Deadlines, after: Deadlines) -> Deadlines:
    """Return the later of each deadline: none is moved back."""
    deadlines = dict(before)
    for uid, moved in after.items():
        known = before.get(uid, {})
        deadlines[uid] = known | {name: max(at, known.get(name, at)) for name, at in moved.items()}
    return deadlines


def merged(before: wire.Notice | None, after: wire.Notice) -> wire.Notice:
    """Return one notice that says what both say; of two notes the later."""
    if before is None:
        return after
    untils = [until for until in (before.until, after.until) if until is not None]
    return wire.Notice(
        uid=after.uid,
        serial=after.serial,
        beat=before.beat or after.beat,
        note=before.note if after.note is None else after.note,
        failed=before.failed or after.failed,
        until=max(untils, default=None),
    )
