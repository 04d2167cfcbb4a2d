"""What a run leaves for the next one of its task: a checkpoint, a question, and its answer."""

from typing import Final

import msgspec
from msgspec import Struct

from dispatcher.model import Outcome
from dispatcher.times import StoreTime
from dispatcher.worker_api import HoldKind


class Handover(Struct, frozen=True, kw_only=True):
    """A row of `handovers`."""

    task_id: int
    checkpoint: str | None
    """JSON text."""
    checkpoint_at: StoreTime | None
    question: str | None
    kind: HoldKind | None
    """None: the worker named none."""
    asked_at: StoreTime | None
    answer: str | None
    answered_at: StoreTime | None
    answered_by: str | None


def answered(question: str | None, kind: str | None, answer: str, by: str | None) -> str:
    """Return question and answer as the next run gets them, as JSON."""
    facts = {"question": question, "kind": kind, "answer": answer, "by": by}
    return msgspec.json.encode(facts).decode()


class Previous(Struct, frozen=True, kw_only=True):
    """Of a task's last run. The texts are JSON; None: there is none."""

    outcome: Outcome | None = None
    run: str | None = None
    checkpoint: str | None = None
    answer: str | None = None


NOTHING: Final = Previous()
