"""The six workers of the demo: what each does, and how its runs must end."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field

from dispatcher.model import Liveness, Outcome
from dispatcher.submission import TaskOptions

_LEASE: TaskOptions = {"liveness": Liveness.WORKER, "lease_ttl_ms": 1500}

_STUB = (sys.executable, "-P", "-m", "worker_stub")


class Part(Struct, frozen=True, kw_only=True):
    """One task of the play."""

    name: str
    does: str
    command: Sequence[str]
    options: TaskOptions = field(default_factory=TaskOptions)
    expected: Sequence[Outcome]
    """The outcomes of its runs in order; their fences are 1, 2, 3, ..."""


def cast(trail: Path) -> list[Part]:
    """Return the parts; the stubborn one's processes write to the file `trail` while they live."""
    return [*_heartbeats(trail), *_exits()]


def _heartbeats(trail: Path) -> Iterator[Part]:
    lost_then_done = (Outcome.LOST, Outcome.SUCCEEDED)
    stubborn = ("--hang", "--ignore-term", "--escape", "--stamp", str(trail))
    yield from (
        Part(
            name="diligent",
            does="beats for 5 leases of 1.5 s, and lives",
            command=(*_STUB, "run", "--", "sleep", "7.5"),
            options=_LEASE,
            expected=(Outcome.SUCCEEDED,),
        ),
        Part(
            name="silent",
            does="stops beating after 1 s",
            command=(*_STUB, "misbehave", "--silent-after", "1s", "--times", "1"),
            options=_LEASE,
            expected=lost_then_done,
        ),
        Part(
            name="stubborn",
            does="ignores SIGTERM, its grandchild escapes",
            command=(*_STUB, "misbehave", *stubborn, "--times", "1"),
            options=_LEASE,
            expected=lost_then_done,
        ),
    )


def _exits() -> Iterator[Part]:
    yield from (
        Part(
            name="hopeless",
            does="fails until its 3 attempts are used up",
            command=("sh", "-c", "exit 1"),
            options={"max_attempts": 3},
            expected=(Outcome.FAILED,) * 3,
        ),
        Part(
            name="early",
            does="exits 75 twice: too early",
            command=(*_STUB, "misbehave", "--exit", "75", "--times", "2"),
            expected=(Outcome.DEFERRED, Outcome.DEFERRED, Outcome.SUCCEEDED),
        ),
        Part(
            name="missing",
            does="names a program that does not exist",
            command=("no-such-program",),
            options={"max_attempts": 2},
            expected=(Outcome.SPAWN_FAILED,) * 2,
        ),
    )
