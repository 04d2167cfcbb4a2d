"""What the service manager is told: systemd's notify protocol, sd_notify(3).

Without `$NOTIFY_SOCKET` nobody is told anything.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from dispatcher.times import Instant, monotonic_us

#: Part of the watchdog's interval between two signs of life; sd_watchdog_enabled(3) says half.
_OFTEN = 3

#: Seconds by which a stop is extended at a time, and between two such requests.
_EXTENSION = 30.0
_EXTEND_EVERY = 10.0


#: Seconds that a manager may take to make room for a word.
_PATIENCE = 0.1


class Notifier:
    """Talks to the service manager that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_PATIENCE)
        self._interval = _watchdog_interval(environ) if self._address else None
        self._alive_at = Instant(0.0)
        self._extended_at = Instant(0.0)
        self._ready = False
        self._status = ""

    @property
    def wanted(self) -> bool:
        """Whether a service manager listens."""
        return self._socket is not None

    @property
    def interval(self) -> float | None:
        """Seconds between two signs of life that the manager wants; None: it wants none."""
        return self._interval

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def is_ready(self) -> bool:
        """Whether the manager received that this process is ready, since the last reload."""
        return self._ready

    def ready(self) -> None:
        """Report that the process does its work: once, and again after a reload."""
        if not self._ready:
            self._ready = self._send("READY=1")

    def status(self, text: str) -> None:
        """Say in a line how things stand; the same line again is not sent."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self, *, at: Instant) -> None:
        """Give a sign of life: called after each turn of the loop, so a loop that hangs gives none.

        A store that does not answer is no reason to be restarted: that would not mend it.
        """
        if self._interval is not None and at - self._alive_at >= self._interval:
            self._alive_at = at
            self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Say that the configuration is read again; `ready` ends it."""
        self._ready = False
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us()}")

    def stopping(self) -> None:
        """Say that the daemon goes."""
        self._send("STOPPING=1")

    def stays(self, *, at: Instant) -> None:
        """Ask for more time to stop than the unit gives: workers are waited for."""
        if at - self._extended_at >= _EXTEND_EVERY:
            self._extended_at = at
            self._send(f"EXTEND_TIMEOUT_USEC={round(_EXTENSION * 1e6)}")

    def _send(self, message: str) -> bool:
        """Send a message; return whether the manager has it."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto(message.encode(), socket.MSG_NOSIGNAL, self._address)
        except OSError:  # nobody listens, or the queue is full: the next word tells it all again
            self._status = ""
            return False
        return True


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return how often a sign of life is due, in seconds; None: none is wanted, or not of us."""
    wanted, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    if not wanted.isdecimal() or int(wanted) == 0 or whose != str(os.getpid()):
        return None
    return int(wanted) / 1e6 / _OFTEN
