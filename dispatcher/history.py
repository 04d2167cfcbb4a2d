"""What a shared store may have forgotten: on a replica that took over, or in a copy. Pure."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.times import StoreTime

#: Bits of a fence that count claims; those above are the timeline of the server.
FENCE_BITS: Final = 40

#: More failovers of a store than between a copy of it and the copy's restore. JSON numbers (2^53)
#: have room for 500 restores.
FAILOVERS: Final = 16

#: Milliseconds at the beginning of 2020: times within the bits below count from then.
_2020: Final = 1_577_836_800_000

#: Milliseconds before a replica's last commit since which a node was seen that worked until then:
#: six of the intervals at which an idle node writes its row.
PRESENT: Final = 60_000

#: Milliseconds in which nodes that the replica forgot come back and register.
RETURN: Final = 10_000

#: Milliseconds without the commit of any node, up to the failover, that are an ordinary outage.
#: Longer ones may hide a node that came and claimed.
ORDINARY: Final = 120_000

#: Milliseconds for which runs go on unconfirmed, if no node has recorded its own limit: the usual
#: absence limit of a shared store, 5 min, with slack and margin (protocol 1.10).
USUAL_LIMIT: Final = 317_000

#: Milliseconds after which a failover is over in any case.
OVER: Final = 86_400_000


_BEGINNING: Final = StoreTime(0)


class History(Struct, frozen=True, kw_only=True):
    """Which commits a store has: another after each failover, as a replica may lack the last ones.

    So may a copy that was restored. Times are the store's.
    """

    timeline: int = 0
    """The server's; 0: an embedded store, which has no replica."""
    fences_after: int = 0
    """Each fence is greater: no claim that was forgotten has such a fence."""
    failed_over_at: StoreTime | None = None
    """When the store noticed it, or was restored; None: there was no failover."""
    claims_after: StoreTime = _BEGINNING
    """Nothing is claimed before then, whichever nodes have returned."""
    awaited_since: StoreTime = _BEGINNING
    """Nothing is claimed before each node that was seen since then has compared its runs."""

    def after_failover(
        self, timeline: int, *, seen_at: StoreTime | None, limit_ms: int | None, now: StoreTime
    ) -> "History":
        """Return the history that begins now on another timeline.

        `seen_at` is when a node was last seen, `limit_ms` the longest for which a run goes on
        unconfirmed. No fence repeats one of another server, even if both have the same timeline
        because they took over from one primary: the time of the failover is in it too.
        """
        limit_ms = USUAL_LIMIT if limit_ms is None else limit_ms
        last = now if seen_at is None else seen_at
        wait_ms = RETURN if now - last <= ORDINARY else max(RETURN, limit_ms)
        least = max(self.fences_after, (timeline - 1) << FENCE_BITS)
        return History(
            timeline=timeline,
            fences_after=least + max(0, now - _2020),
            failed_over_at=now,
            claims_after=StoreTime(now + wait_ms),
            awaited_since=StoreTime(last - PRESENT),
        )

    def after_restore(
        self, timeline: int, *, seen_at: StoreTime | None, limit_ms: int | None, now: StoreTime
    ) -> "History":
        """Return the history that begins now with a copy, on a server with this timeline.

        The store that was copied may have failed over since, which neither copy nor server knows.
        """
        newest = max(self.timeline, timeline)
        least = max(self.fences_after, (newest - 1) << FENCE_BITS)
        beyond = replace(self, fences_after=least + (FAILOVERS << FENCE_BITS))
        return beyond.after_failover(timeline, seen_at=seen_at, limit_ms=limit_ms, now=now)


class Postponed(Struct, frozen=True):
    """Why nothing is claimed after a failover: workers of forgotten claims may still live."""

    nodes: tuple[str, ...]
    """Hosts of the nodes that must first compare their runs with the store."""
    until: StoreTime | None
    """When it is over at the latest; None: only those nodes or an operator end it."""

    def describe(self, now: StoreTime) -> str:
        """Return it as a clause, with its end."""
        text = "the store failed over or was restored, and may have forgotten claims: nothing is"
        seconds = 0.0 if self.until is None else max(0, self.until - now) / 1000
        if not self.nodes:
            return f"{text} claimed for {seconds:.0f} s more, as nodes that it forgot may come back"
        have = "has compared its" if len(self.nodes) == 1 else "have compared their"
        text += f" claimed until {', '.join(self.nodes)} {have} runs with it"
        if self.until is None:
            return f"{text}; for one that is gone for good: dispatcher node forget --dead"
        return f"{text}, or {seconds:.0f} s have passed"
