"""One-line bugs of the lease protocol, each of which the state machine must find.

A plant changes one piece of a statement's text, or one function. The text must be there: a plant
that fits nowhere any more fails, and is to be planted anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher import policy
from dispatcher.model import Outcome
from dispatcher.store import claims, moves
from dispatcher.store.sql import SqlStore
from dispatcher.store.statements import claims as claims_sql
from dispatcher.store.statements import operators, readers, supervisor, workers
from dispatcher.store.statements.given import NAMED_IS_OPEN, bounded
from dispatcher.store.statements.moves import Move
from dispatcher.words import Renewed

STATEMENTS = (workers, claims_sql, supervisor, operators, readers, moves)


@dataclass(frozen=True)
class Plant:
    """A bug: its name, and how it is put in."""

    name: str
    put: Callable[[pytest.MonkeyPatch], None]


def statement(name: str, sound: str, buggy: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what puts a bug into a statement's text."""

    def put(monkeypatch: pytest.MonkeyPatch) -> None:
        statements = next(module for module in STATEMENTS if hasattr(module, name))
        found: str | Move = getattr(statements, name)
        text = found.statement if isinstance(found, Move) else found
        assert sound in text, f"{name} does not contain {sound!r} any more: plant this bug anew"
        text = text.replace(sound, buggy)
        planted = replace(found, statement=text) if isinstance(found, Move) else text
        monkeypatch.setattr(statements, name, planted)

    return put


def _ok_whatever_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: the helper's answer is ignored, and the worker gets an ok."""
    sound = SqlStore.heartbeat

    def heartbeat(store: SqlStore, beats: Any, *, now: Any) -> list[Renewed]:
        answers = sound(store, beats, now=now)
        return [one if isinstance(one, Renewed) else Renewed(now) for one in answers]

    monkeypatch.setattr(SqlStore, "heartbeat", heartbeat)


def _liveness_without_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repair's gap: the second write, of liveness, checks no lock."""
    sound = SqlStore.heartbeat
    stamp = "UPDATE runs SET last_heartbeat_at = :now WHERE task_id = :id AND outcome IS NULL"

    def heartbeat(store: SqlStore, beats: Any, *, now: Any) -> Any:
        answers = sound(store, beats, now=now)
        for beat in beats:
            store.engine.change(stamp, {"id": beat.task_id, "now": now})
        return answers

    monkeypatch.setattr(SqlStore, "heartbeat", heartbeat)


def _ending_outranks_the_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = policy.verdict

    def verdict(run: Any, end: Any) -> policy.Verdict:
        if run.ending is not None:
            return policy.Verdict(run.ending, "its ending")
        return sound(run, end)

    monkeypatch.setattr(policy, "verdict", verdict)


def _exit_outranks_the_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = policy.verdict

    def verdict(run: Any, end: Any) -> policy.Verdict:
        if end is not None and end.exit.exit_code == 0 and run.declared is None:
            return policy.Verdict(Outcome.SUCCEEDED, "exit code 0")
        return sound(run, end)

    monkeypatch.setattr(policy, "verdict", verdict)


def _one_lock_for_all_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock was the same for all claims of one dispatcher process."""
    sound = claims.claim

    def claim(*args: Any, **facts: Any) -> Any:
        minted = (word for uid in iter(claims.secret, None) for word in (uid, "1" * 32))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "secret", partial(next, minted))
            return sound(*args, **facts)

    monkeypatch.setattr(claims, "claim", claim)


def _intent_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_as_intended", lambda run, judged, account: account)


_TTL = bounded("runs.lease_ttl_ms")
_RENEWED = f":now + {bounded('lease_ttl_ms')}"
_RENEWS = f"ELSE {_RENEWED} END,\n    takeover_at"
_FIRST_LOCK = """COALESCE((SELECT runs.lock FROM runs WHERE runs.task_id = given.task_id
    ORDER BY runs.fence LIMIT 1), given.lock)"""

PLANTS = [
    Plant(
        "a heartbeat that stamps liveness only",  # the origin of this project: keep it the first
        statement("HEARTBEAT", _RENEWS, _RENEWS.replace(_RENEWED, "lease_expires_at")),
    ),
    Plant(
        "a heartbeat that extends the lease and stamps nothing",
        statement("HEARTBEAT", "last_heartbeat_at = :now,", ""),
    ),
    Plant(
        "a heartbeat that checks no lock", statement("HEARTBEAT", "AND runs.lock = given.lock", "")
    ),
    Plant("a heartbeat of an ending run", statement("HEARTBEAT", "AND ending IS NULL", "")),
    Plant(
        "a heartbeat that takes the later expiry",
        statement(
            "HEARTBEAT",
            f"ELSE {_RENEWED}",
            f"ELSE MAX(lease_expires_at, {_RENEWED})",
        ),
    ),
    Plant(
        "a lock that is compared by its beginning",
        statement(
            "HEARTBEAT",
            "runs.lock = given.lock",
            "substr(runs.lock, 1, length(given.lock)) = given.lock",
        ),
    ),
    Plant(
        "a lock that is compared without regard to case",
        statement("HEARTBEAT", "runs.lock = given.lock", "lower(runs.lock) = lower(given.lock)"),
    ),
    Plant("ok although refused", _ok_whatever_happened),
    Plant("liveness without a lock", _liveness_without_a_lock),
    Plant("one lock for all claims", _one_lock_for_all_claims),
    Plant(
        "a claim that keeps the old lock",
        statement(
            "OPEN",
            "given.lock",
            _FIRST_LOCK,
        ),
    ),
    Plant("a claim that keeps the fence", statement("CLAIM", "= given.fence", "= tasks.fence")),
    Plant(
        "a start that does not begin the lease anew",
        statement("RECORD_STARTED", f"= :now + {_TTL}", "= runs.lease_expires_at"),
    ),
    Plant("a second ending that wins", statement("BEGIN_ENDINGS", "AND ending IS NULL", "")),
    Plant(
        "a settle that leaves the run open",
        statement("CLOSE", "SET outcome = given.outcome,", "SET"),
    ),
    Plant("a settle that works twice", statement("CLOSE", f"AND {NAMED_IS_OPEN}", "")),
    Plant("a declaration that checks no lock", statement("DECLARE", "AND lock = :lock", "")),
    Plant("a second declaration that wins", statement("DECLARE", "AND declared IS NULL", "")),
    Plant("a repeated declaration under any lock", statement("DECLARED", "AND lock = :lock", "")),
    Plant("an expiry of ending runs", statement("EXPIRED", "ending IS NULL AND", "")),
    Plant("an expiry of those that declared", statement("EXPIRED", "declared IS NULL", "TRUE")),
    Plant(
        "an expiry a moment late", statement("EXPIRED", "expires_at <= :now", "expires_at < :now")
    ),
    Plant(
        "a lease of a wrong clock that lives for hours",
        statement("EXPIRED", f"lease_expires_at > :now + 2 * ({_TTL})", "FALSE"),
    ),
    Plant(
        "a live process that extends a worker's lease",
        statement("RENEW", "liveness = 'process' OR", "TRUE OR"),
    ),
    Plant(
        "superseded for not_owner",
        statement("PRESENTED", "AND runs.lock = :lock", "AND runs.fence = 1"),
    ),
    Plant("an ending that outranks the declaration", _ending_outranks_the_declaration),
    Plant("an exit that outranks the ending", _exit_outranks_the_ending),
    Plant("an intent that is forgotten", _intent_that_is_forgotten),
    Plant(
        "a first intent that holds",
        statement("INTEND", "intent = :intent", "intent = COALESCE(intent, :intent)"),
    ),
]
