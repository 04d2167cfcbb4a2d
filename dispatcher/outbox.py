"""Unsent messages between daemon and executor: one message of a kind for each run.

A peer that does not read therefore costs memory for its runs, not for its events.
"""

from typing import TypeVar, cast

from dispatcher import wire

M = TypeVar("M", bound=wire.Message)

Deadlines = dict[wire.RunUid, dict[str, float]]

#: Messages that move to the end when they are result: an answer covers everything sent before it,
#: and a deadline is moved only after the start of its run.
_MOVES_BACK = (wire.Renew, wire.Ping, wire.Pong)


class Outbox:
    """Messages in the order of their first version, each with its latest content."""

    def __init__(self) -> None:
        self._unsent: dict[tuple[object, ...], wire.Message] = {}

    def __bool__(self) -> bool:
        return bool(self._unsent)

    def put(self, message: wire.Message) -> None:
        """Add a message, or merge it into the unsent one of its kind and run."""
        key = _key(message)
        if (before := self._unsent.get(key)) is not None:
            message = _merge(before, message)
            if isinstance(message, _MOVES_BACK):
                del self._unsent[key]
        self._unsent[key] = message

    def encoded(self) -> bytes:
        """Return the unsent lines."""
        return b"".join(wire.encode(message) + b"\n" for message in self._unsent.values())

    def take(self) -> bytes:
        """Remove and return the unsent lines."""
        lines = self.encoded()
        self._unsent.clear()
        return lines

    def clear(self) -> None:
        self._unsent.clear()


def _key(message: wire.Message) -> tuple[object, ...]:
    if isinstance(message, wire.Stray):
        return (wire.Stray, *message.candidates)
    return (type(message), getattr(message, "uid", None))


def _merge(before: wire.Message, after: M) -> M:
    match before, after:
        case wire.Changed(), wire.Changed():
            result: wire.Message = wire.Changed(
                uid=after.uid,
                state=after.state,
                exit=after.exit or before.exit,
                ended_by=after.ended_by or before.ended_by,
                reason=after.reason or before.reason,
            )
        case wire.Notice(), wire.Notice():
            result = merged(before, after)
        case wire.Renew(), wire.Renew():
            result = wire.Renew(deadlines=_latest(before.deadlines, after.deadlines))
        case wire.End(), wire.End():
            graces = [end.longest_grace for end in (before, after) if end.longest_grace is not None]
            result = wire.End(
                uid=after.uid,
                reason=after.reason,
                at_once=before.at_once or after.at_once,
                longest_grace=min(graces, default=None),
            )
        case _:
            result = after
    return cast("M", result)


def _latest(before: Deadlines, after: Deadlines) -> Deadlines:
    """Return the later of each deadline: none is moved back."""
    deadlines = dict(before)
    for uid, moved in after.items():
        known = before.get(uid, {})
        deadlines[uid] = known | {name: max(at, known.get(name, at)) for name, at in moved.items()}
    return deadlines


def merged(before: wire.Notice | None, after: wire.Notice) -> wire.Notice:
    """Return one notice with the content of both, and the later of two notes."""
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
