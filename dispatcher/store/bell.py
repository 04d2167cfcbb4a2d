"""How a change of the store wakes the daemons that work on it."""

from typing import Protocol


class Bell(Protocol):
    """Rung once for each transaction that gives daemons work; by whom, and where, it differs.

    Rings between two reads are one. A ring that is lost costs only time, as every daemon also looks
    by itself (protocol 1.14).
    """

    @property
    def statement(self) -> str:
        """SQL that rings with the commit, executed last in the transaction; "" for none."""

    def ring(self) -> None:
        """Ring after a commit, or one whose outcome is unknown. Never fails, never waits."""

    def fileno(self) -> int | None:
        """Return a descriptor that is readable once others have rung, the same until the close.

        None: others wake a daemon in another way.
        """

    def read(self) -> None:
        """Read what made the descriptor readable, and connect again if that is due.

        Called in each turn of the daemon. Never fails, never waits.
        """

    @property
    def heard(self) -> int | None:
        """How many rings and connections were read; None: nothing can arrive now."""

    @property
    def failure(self) -> str | None:
        """Why this daemon receives no rings of others, as found last; None: it does."""

    def close(self) -> None:
        """Listen no longer. Idempotent."""


class NoBell:
    """For the daemon of an embedded store: nobody else is to be woken by its commits.

    Commands wake it at its control socket (`control.ControlBell`), on which it waits anyway.
    """

    statement = ""
    heard = None
    failure = None

    def ring(self) -> None: ...

    def fileno(self) -> None: ...

    def read(self) -> None: ...

    def close(self) -> None: ...


NO_BELL: Bell = NoBell()
