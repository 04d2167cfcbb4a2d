"""Workers' messages under their claim's lock, and the store's answers."""

import math
from collections.abc import Iterator, Mapping
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from dispatcher import wire, worker_api
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.model import Declared, TaskState
from dispatcher.times import StoreTime, WallTime, from_iso, wall_clock
from dispatcher.worker_api import HoldKind, WorkerError

_OPS = ("heartbeat", "succeed", "fail", "defer", "hold")

_STOP = "another claim may own the task: stop working, record nothing, exit 79"

#: What a worker must do, for each refusal.
REMEDIES = {
    WorkerError.NOT_OWNER: (
        f"this is not the lock of the run, or the run is ending or out of time; {_STOP}"
    ),
    WorkerError.SUPERSEDED: f"a newer run owns the task; {_STOP}",
    WorkerError.NOT_RUNNING: f"the task is not running; {_STOP}",
    WorkerError.UNKNOWN_TASK: "there is no such task; stop working, exit 79",
    WorkerError.ALREADY_DECLARED: "another outcome was declared before and holds; exit",
    WorkerError.NOT_TAKEN: (
        "the task does not take the limit that it would close: close one that it takes, or none;"
        " nothing is declared"
    ),
    WorkerError.STORE_UNAVAILABLE: (
        "the result of this write is unknown; continue to work and try again"
    ),
    WorkerError.NOT_ALLOWED: (
        "only the users of the daemon and of its runs, and root, may use this socket; stop"
        " working, record nothing, exit 79"
    ),
}


class _Message(Struct, frozen=True, kw_only=True):
    task_id: int
    lock: str
    """A secret."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task_id={self.task_id})"


class Beat(_Message, frozen=True, kw_only=True):
    """A heartbeat: the claim's holder lives."""

    progress: float | None = None
    """From 0 to 1; None: unchanged."""
    note: str | None = None
    checkpoint: str | None = None
    """JSON text for the next run; None: unchanged."""


class Note(_Message, frozen=True, kw_only=True):
    """What the claim's holder is doing; it does not renew the lease."""

    note: str


class Declaration(_Message, frozen=True, kw_only=True):
    """A worker's own outcome. Sending the same one again changes nothing."""

    word: Declared
    reason: str | None = None
    result: str | None = None
    """JSON text; for `succeed`."""
    retry: bool = True
    """For `fail`: whether another attempt makes sense."""
    delay_ms: int | None = None
    """For `defer`; None: the configured cool-down."""
    until: WallTime | None = None
    """The date from which the delay was made, if it was."""
    close: str | None = None
    """For `defer`: the named limit to close for as long."""
    question: str | None = None
    """For `hold`: what a person is asked."""
    kind: HoldKind | None = None
    """For `hold`: what it waits for."""


class Renewed(Struct, frozen=True):
    """The lease was extended."""

    lease_expires_at: StoreTime


class Accepted(Struct, frozen=True):
    """The declaration is recorded."""


class Refused(Struct, frozen=True):
    """Nothing was written, and why; see `worker_api.WorkerError`."""

    error: WorkerError
    state: TaskState | None = None
    """The task's; None: there is no such task."""
    attempt: int | None = None
    """The attempt that runs, or the last one that ran."""


class Invalid(Struct, frozen=True):
    """No database can keep the message, so that it is never to be sent again, and why."""

    why: str


def validated_message(op: str, task_id: int, lock: str, **facts: object) -> Beat | Declaration:
    """Return a message that satisfies the limits of the worker socket. Raises ValueError."""
    return parse_request(encode_request(op, task_id, lock, **facts))


def encode_request(op: str, task_id: int, lock: str, **facts: object) -> bytes:
    """Return a line for the worker socket. Raises ValueError for values that JSON cannot carry."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    try:
        known = {name: plain(fact) for name, fact in known.items()}
        for name, fact in known.items():
            _check_finite(name, fact)
        return msgspec.json.encode(plain({"op": op, "task_id": task_id, "lock": lock, **known}))
    except UnicodeEncodeError as error:
        raise ValueError(f"{_unencodable({'lock': lock, **known})}: {in_words(error)}") from None
    except (msgspec.MsgspecError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _check_finite(name: str, fact: object) -> None:
    """Raise ValueError for a number that JSON would turn into null."""
    parts = [fact if isinstance(fact, msgspec.Raw) else msgspec.to_builtins(fact)]
    while parts:
        part = parts.pop()
        if isinstance(part, float) and not math.isfinite(part):
            raise ValueError(f"{name}: must be finite, as JSON numbers are, not {part}")
        if isinstance(part, dict):
            parts += (*part, *part.values())
        elif isinstance(part, list | tuple):
            parts += part


def plain(value: object) -> object:
    """Return a value with plain `str` in place of its subclasses, which other libraries have."""
    if value is None:  # most fields of a task are; the checks below take longer
        return None
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {plain(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def _unencodable(facts: dict[str, object]) -> str:
    """Return the names of facts with a text that is not UTF-8."""
    return ", ".join(name for name, fact in facts.items() if not _is_utf8(fact))


def _is_utf8(fact: object) -> bool:
    try:
        msgspec.json.encode(fact)
    except UnicodeEncodeError:
        return False
    return True


def parse_request(line: bytes) -> Beat | Declaration:
    """Return the message in a line. Raises ValueError that names the mistake."""
    if not line.strip():
        raise ValueError('the line is empty; write one JSON object, {"op": …}')
    try:
        sent: worker_api.AnyRequest = worker_api.decode_request(line)
    except UNREADABLE as error:
        raise ValueError(in_words(error, choices=_OPS, text=line)) from None
    if b"\\u0000" in line:
        _refuse_nul(sent)
    declared = partial(Declaration, task_id=sent.task_id, lock=sent.lock)
    match sent:
        case worker_api.Heartbeat():
            return Beat(
                task_id=sent.task_id,
                lock=sent.lock,
                progress=sent.progress,
                note=sent.note,
                checkpoint=_bounded("checkpoint", sent.checkpoint),
            )
        case worker_api.Succeed():
            return declared(word=Declared.SUCCEED, result=_bounded("result", sent.result))
        case worker_api.Fail():
            return declared(word=Declared.FAIL, reason=sent.reason, retry=sent.retry)
        case worker_api.Defer():
            return _deferred(declared(word=Declared.DEFER, reason=sent.reason), sent)
        case worker_api.Hold():
            asked = declared(word=Declared.HOLD, reason=sent.reason)
            return replace(asked, question=sent.question, kind=sent.kind)


def _deferred(declared: Declaration, sent: worker_api.Defer) -> Declaration:
    """Return a declaration with when, and what it closes until then. Raises ValueError."""
    if sent.delay is not None and sent.until is not None:
        raise ValueError("until: delay says when too; give one of them")
    if sent.close is not None and sent.delay is None and sent.until is None:
        raise ValueError("close: needs until, or a delay: when the limit opens again")
    delay_ms = None if sent.delay is None else round(sent.delay * 1000)
    until = None
    if sent.until is not None:
        try:
            until = from_iso(sent.until)
        except (ValueError, OverflowError):
            example = 'write a date with its zone, for example "2026-08-01T06:00:00Z"'
            raise ValueError(f"until: {sent.until!r} is not a time; {example}") from None
        # Over: the cool-down follows, or the task would be repeated without a pause.
        if (left := until - wall_clock()) > 0:
            delay_ms = min(left, worker_api.MAX_DELAY * 1000)
    return replace(declared, delay_ms=delay_ms, until=until, close=sent.close)


def _bounded(name: str, sent: msgspec.Raw) -> str | None:
    """Return a part of a message as JSON text; None: it is missing. Raises ValueError."""
    text = bytes(sent)
    if len(text) > worker_api.MAX_RESULT:
        size = f"{len(text)} bytes are more than {worker_api.MAX_RESULT}"
        raise ValueError(f"{name}: {size}; write it to a file and name that")
    return text.decode() or None


def _refuse_nul(sent: worker_api.AnyRequest) -> None:
    """Raise ValueError for a text with a NUL. In a result, which stays JSON, it is an escape."""
    for name in ("lock", "note", "reason", "question", "close"):
        if "\0" in (getattr(sent, name, None) or ""):
            raise ValueError(f"{name}: holds a NUL character, which no database can keep")


def messages_of_notice(
    notice: wire.Notice, task_id: int, lock: str
) -> Iterator[Beat | Note | Declaration]:
    """Yield the messages about a claim in a notice of systemd's protocol."""
    if notice.beat:
        yield Beat(task_id=task_id, lock=lock, note=notice.note)
    elif notice.note is not None:
        yield Note(task_id=task_id, lock=lock, note=notice.note)
    if notice.failed:
        reason = "it reported its own failure: WATCHDOG=trigger"
        yield Declaration(task_id=task_id, lock=lock, word=Declared.FAIL, reason=reason)
