"""Which ticks search for what others have written, and which need not."""

from functools import partial

from dispatcher.store.api import Version
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.times import Alarm


class Looks:
    """Decides it at the beginning of a tick, and remembers at its end what the tick has seen.

    A tick looks each poll, and if the store's version is not what the last tick that looked has
    seen, or the executor answers again: also each new one, as it is not reconciled at first.
    """

    def __init__(self, shared: Shared) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._poll = Alarm()
        self._seen: tuple[Version | None, bool] = (None, False)
        self._sees: tuple[Version | None, bool] = (None, False)

    def decide(self, turn: Turn) -> None:
        version = self._store.version()
        self._sees = version, self._memory.is_served_by(self._executor)
        turn.looks = version is None or self._sees != self._seen or self._poll.is_due(turn.at)

    def remember(self, turn: Turn) -> None:
        if turn.looks:
            turn.after(partial(self._remember, self._sees))
            turn.after(partial(self._poll.set, turn.at + self._memory.settings.poll))

    def _remember(self, seen: tuple[Version | None, bool]) -> None:
        self._seen = seen
