"""What workers say under their claim's lock, and what the store answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from dispatcher.model import Declared, TaskState
from dispatcher.times import StoreTime
from dispatcher.wire import WorkerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat: proof of life of a claim's holder."""

    task_id: int
    lock: str = field(repr=False)
    progress: float | None = None
    """From 0 to 1; None: as before."""
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a worker says of its own end. Saying the same again is the same declaration."""

    task_id: int
    lock: str = field(repr=False)
    word: Declared
    reason: str | None = None
    result: str | None = None
    """JSON text, of `succeed`."""
    retry: bool = True
    """Of `fail`: whether another attempt makes sense."""
    delay_ms: int | None = None
    """Of `defer`; None: the configured cool-down."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease was extended, and now ends at `lease_expires_at`."""

    lease_expires_at: StoreTime


@dataclass(frozen=True, slots=True)
class Accepted:
    """The declaration stands."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was written, and why; see `wire.WorkerError`."""

    error: WorkerError
    state: TaskState | None = None
    """The task's, where there is one."""
    attempt: int | None = None
    """The attempt that now runs, or the last one that ran."""
