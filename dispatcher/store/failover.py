"""Notices that a replica has taken over a shared store's server, and what has to wait for it.

A restored copy lacks commits like a replica.
"""

import math
from collections.abc import Sequence
from typing import Final, TypedDict

import msgspec

from dispatcher.errors import StoreUnavailable, StoreUnusable
from dispatcher.history import OVER, USUAL_LIMIT, History, Postponed
from dispatcher.store.engine import Engine
from dispatcher.store.rows import Ready
from dispatcher.store.statements import history as sql
from dispatcher.times import StoreTime

_decoded = msgspec.json.Decoder(History).decode

#: No session of a server, as an embedded database.
_NO_SESSION: Final = (0, 0)


class _LastSeen(TypedDict):
    """When a node was last seen, and for how long the runs of any may go on unconfirmed."""

    seen_at: StoreTime | None
    limit_ms: int | None


class HistoryWatch:
    """Compares the store's history with its server's, once in each session."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._compared = _NO_SESSION
        """The session, and its timeline, in which the known history was read from the store."""
        self.known = History()
        self._is_over = True
        """Whether nothing waits for the last failover any more."""
        self._limit_passed_at = -math.inf
        """When forgotten runs of all nodes that did not return are over, but for their graces."""
        self._awaits_until = math.inf
        """When nobody is awaited any more who may still come back."""

    def follow(self, now: StoreTime) -> None:
        """Begin a new history if the server has another timeline than the store knows.

        It counts once a later transaction finds it: this one may be rolled back.
        """
        origin = self._engine.origin
        if origin == self._compared:
            return
        _, timeline = origin
        found = self._read(sql.READ)
        if found is not None and found.timeline == timeline:
            self._compared = origin
        elif self._may_record():
            found = self._begin(timeline, now)
        elif found is None:  # a role that only submits, before the first daemon
            return
        else:
            raise StoreUnavailable(
                "a replica took over the store's server, and this role may not record that;"
                " try again once a daemon has reached it"
            )
        if found != self.known:
            self.known, self._is_over = found, found.failed_over_at is None
            self._limit_passed_at, self._awaits_until = -math.inf, math.inf

    def begin_restored(self, now: StoreTime) -> None:
        """Begin a history with a restored copy, also on a server with the known timeline."""
        _, timeline = self._engine.origin
        before = self._lock(timeline)
        self._record(before.after_restore(timeline, **self._last_seen(), now=now), now)
        self._engine.change(sql.AWAIT_ALL)

    def postponed(self, now: StoreTime) -> Postponed | None:
        """Return what claims wait for; None: nothing."""
        failed_over_at = self.known.failed_over_at
        if self._is_over or failed_over_at is None or self._awaits_until <= now:
            return None
        values = {"timeline": self.known.timeline, "since": self.known.awaited_since}
        awaited = self._engine.rows(sql.AWAITED, values)
        most = [math.inf if limit is None else failed_over_at + limit for _, limit in awaited]
        self._limit_passed_at = max(most, default=-math.inf)
        until = max(self.known.claims_after, self._limit_passed_at)
        if until <= now or failed_over_at + OVER <= now:
            self._is_over = not awaited or failed_over_at + OVER <= now
            self._awaits_until = max(until, failed_over_at + USUAL_LIMIT)
            return None
        hosts = (
            host for (host, _), passed_at in zip(awaited, most, strict=True) if passed_at > now
        )
        return Postponed(tuple(hosts), None if until == math.inf else StoreTime(int(until)))

    def claimable(self, ready: Sequence[Ready], now: StoreTime) -> list[Ready]:
        """Return those tasks of which no forgotten worker may be in its kill grace."""
        if self._is_over:
            return list(ready)
        return [one for one in ready if now >= self._limit_passed_at + one.kill_grace_ms]

    def refuse_by_hand(self, ready: Ready, now: StoreTime) -> None:
        """Raise `StoreUnavailable` if a task may still be claimed by a forgotten claim."""
        postponed, failed_over_at = self.postponed(now), self.known.failed_over_at
        if postponed is None and failed_over_at is not None:
            # A claim by hand is over when its lease is, unless the store renews it.
            until = StoreTime(failed_over_at + ready.lease_ttl_ms)
            postponed = Postponed((), until) if now < until else None
        if postponed is not None:
            raise StoreUnavailable(f"{postponed.describe(now)}; try again then")

    def postpone_takeovers(self, now: StoreTime) -> None:
        """Let nobody take over a claim while a run may go on whose confirmation is not known."""
        limit_ms = self._last_seen()["limit_ms"]
        until = now + (USUAL_LIMIT if limit_ms is None else limit_ms)
        self._engine.change(sql.POSTPONE_TAKEOVERS, {"value": str(until)})

    def _may_record(self) -> bool:
        statement = self._engine.dialect.may_record
        return not statement or bool(self._engine.rows(statement)[0][0])

    def _begin(self, timeline: int, now: StoreTime) -> History:
        """Begin a history, unless another process was faster; all others wait for this one."""
        before = self._lock(timeline)
        if before.timeline == timeline:
            return before
        begun = before.after_failover(timeline, **self._last_seen(), now=now)
        self._record(begun, now)
        # Forgotten tasks were acknowledged: their ids name nothing else.
        if self._engine.dialect.advance_ids:
            self._engine.rows(self._engine.dialect.advance_ids)
        return begun

    def _lock(self, timeline: int) -> History:
        """Lock the history; without one, that of this timeline begins.

        Of daemons that begin at once, all but the first wait for a commit on the disk.
        """
        if self._engine.dialect.waits:
            self._engine.rows(self._engine.dialect.waits)
        first = History(timeline=timeline)
        self._engine.change(sql.ADD, {"value": _encoded(first)})
        return self._read(sql.LOCK) or first

    def _last_seen(self) -> _LastSeen:
        ((seen_at, limit_ms),) = self._engine.rows(sql.LAST_SEEN)
        return _LastSeen(seen_at=seen_at, limit_ms=limit_ms)

    def _record(self, begun: History, now: StoreTime) -> None:
        self._engine.change(sql.WRITE, {"value": _encoded(begun)})
        self.postpone_takeovers(now)

    def _read(self, statement: str) -> History | None:
        for (text,) in self._engine.rows(statement):
            try:
                return _decoded(text)
            except msgspec.MsgspecError as error:
                raise StoreUnusable(
                    f"the row `history` of the table `meta` was damaged ({error});"
                    " restore the database from a backup"
                ) from error
        return None


def _encoded(history: History) -> str:
    return msgspec.json.encode(history).decode()
