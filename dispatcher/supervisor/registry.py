"""Makes this node's row on a shared store this daemon's, before it reconciles or claims."""

from contextlib import suppress
from functools import partial

import structlog

from dispatcher.errors import CommitUnknown, ConfigError, StoreUnavailable, StoreWithheld
from dispatcher.history import History
from dispatcher.model import Node
from dispatcher.store.api import SupervisorStore
from dispatcher.supervisor.node_row import SHARED_SEEN_INTERVAL, own_row
from dispatcher.supervisor.outage import RETURN
from dispatcher.supervisor.turn import Memory, Turn
from dispatcher.times import LONG_AGO, Instant

log = structlog.get_logger()

#: Seconds between two looks at a row that another daemon may still write.
LOOK_INTERVAL = 0.5

#: Seconds between two looks after which the row is watched anew: an outage of the store silences
#: every daemon.
LONGEST_PAUSE = 5.0


#: The errors of a store that a daemon leaves without a word.
_UNREACHED = (StoreUnavailable, StoreWithheld, CommitUnknown)


class Registry:
    """Takes the row at once from a daemon of this boot and host, or from one that has left it.

    Any other is watched first, since a copy of this node's state directory may work on another
    host. Only time counts in which that daemon could have written: none before the first look,
    because the store may have just returned from an outage, and none before an outage while the row
    is watched. On an embedded store there is nothing to take.
    """

    def __init__(self, store: SupervisorStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._watched: Node | None = None
        self._watched_in: History | None = None
        """The history in which the row was read: another one may have an older row."""
        self._until = LONG_AGO
        """When the watched row may be taken."""
        self._looked_at = LONG_AGO
        self._taken_in: History | None = None
        """The history in which the row was taken: another one may have forgotten that."""

    @property
    def has_row(self) -> bool:
        """Whether the row is ours: only then anything else is done."""
        return self._memory.settings.session is None or self._taken_in == self._store.history

    def report(self) -> str | None:
        """Return what is waited for; None: nothing."""
        if self.has_row or self._watched is None:
            return None
        return (
            f"another daemon of this node's identity was seen on {self._watched.hostname}; it is"
            " watched until it counts as gone"
        )

    def due(self, at: Instant) -> Instant:
        """Return when to look again."""
        return Instant(at if self._watched is None else at + LOOK_INTERVAL)

    def leave(self) -> None:
        """Give the row up, where that succeeds: the next daemon of this node takes it at once."""
        settings = self._memory.settings
        if settings.session is not None:
            with suppress(*_UNREACHED), self._store.transaction():
                self._store.leave_node(settings.node_id, settings.session.uid)

    def register(self, turn: Turn) -> None:
        """Take the row, or watch it. Raises `ConfigError` if another daemon still writes it."""
        settings = self._memory.settings
        row = self._store.node(settings.node_id)
        if row is not None and not self._may_take(row, turn):
            return
        own = own_row(settings, None, now=turn.now, interval=SHARED_SEEN_INTERVAL[0])
        if self._store.take_node(own, was=row):
            turn.again = True  # now everything else
            turn.after(partial(self._remember_taken, row))

    def _may_take(self, row: Node, turn: Turn) -> bool:
        settings, session = self._memory.settings, self._memory.settings.session
        assert session is not None
        here = (session.boot_id, session.pid_namespace, settings.hostname)
        if row.session in ("", session.uid) or row.place == here:
            return True
        watched = self._watched if self._watched_in == self._store.history else None
        if watched is not None and (row.session, row.seen_at) != (watched.session, watched.seen_at):
            raise ConfigError(
                f"another daemon of node {row.id} works on host {row.hostname}: both have the same"
                f" identity, as after a copy of a machine or of a state directory; {session.remedy}"
            )
        is_new = watched is None or turn.at > self._looked_at + LONGEST_PAUSE
        turn.after(partial(self._watch, row, turn.at, is_new=is_new))
        return not is_new and turn.at >= self._until

    def _watch(self, row: Node, at: Instant, *, is_new: bool) -> None:
        pause = at - self._looked_at
        self._watched, self._watched_in, self._looked_at = row, self._store.history, at
        if is_new:
            seconds = watch_of(row)
            self._until = Instant(at + seconds)
            log.warning("node.watched", hostname=row.hostname, timeout_s=seconds)
        elif pause > 2 * LOOK_INTERVAL:  # an outage, perhaps of that daemon too
            # An end comes also where each look takes so long.
            self._until = Instant(self._until + pause - LOOK_INTERVAL)

    def _remember_taken(self, before: Node | None) -> None:
        self._taken_in, self._watched = self._store.history, None
        log.info("node.registered", before=None if before is None else before.hostname)


def watch_of(row: Node) -> float:
    """Return for how many seconds a row is watched: its daemon writes it within them.

    They are the longest interval, as a daemon whose last run has just ended writes the row less
    often than it says, then an outage that no look has met, and the return from that.
    """
    return max(row.seen_interval_ms / 1000, *SHARED_SEEN_INTERVAL) + LONGEST_PAUSE + RETURN
