"""Reports to the service manager: systemd's notify protocol, sd_notify(3).

Without `$NOTIFY_SOCKET` nothing is reported.
"""

import os
import socket
from collections.abc import Mapping

from dispatcher.times import LONG_AGO, Instant, monotonic_us

#: Signs of life in one interval of the watchdog; sd_watchdog_enabled(3) recommends two.
_OFTEN = 3

#: Seconds by which a stop is extended at a time, and between two such requests.
_EXTENSION = 30.0
_EXTEND_EVERY = 10.0

#: Seconds that a manager may take to make room for a message.
_PATIENCE = 0.1


class Notifier:
    """Sends messages to the service manager that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(_PATIENCE)
        self.interval = _watchdog_interval(environ) if self._address else None
        """Seconds between two signs of life for the manager; None: it wants none."""
        self._alive_at = self._extended_at = LONG_AGO
        self.is_ready = False
        """Whether the manager received that this process is ready, since the last reload."""
        self._status = ""

    @property
    def has_manager(self) -> bool:
        """Whether a service manager listens."""
        return self._socket is not None

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def report_ready(self) -> None:
        """Report that the process is ready: once, and again after a reload."""
        if not self.is_ready:
            self.is_ready = self._send("READY=1")

    def report_status(self, text: str) -> None:
        """Report the state in a line; an unchanged line is not sent again."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def send_sign_of_life(self, *, at: Instant) -> None:
        """Send a sign of life, if due. Call it after each turn of the loop: a hung loop sends none.

        A store that does not answer does not stop it: a restart would not help.
        """
        if self.interval is not None and at - self._alive_at >= self.interval:
            self._alive_at = at
            self._send("WATCHDOG=1")

    def report_reloading(self) -> None:
        """Report that the configuration is read again; the next `report_ready` ends that."""
        self.is_ready = False
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us()}")

    def report_stopping(self) -> None:
        self._send("STOPPING=1")

    def extend_stop(self, *, at: Instant) -> None:
        """Request more time to stop than the unit allows, while workers end."""
        if at - self._extended_at >= _EXTEND_EVERY:
            self._extended_at = at
            self._send(f"EXTEND_TIMEOUT_USEC={round(_EXTENSION * 1e6)}")

    def _send(self, message: str) -> bool:
        """Send a message; return whether it was delivered."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto(message.encode(), socket.MSG_NOSIGNAL, self._address)
        except OSError:  # no listener, or a full queue: the next message repeats it all
            self._status = ""
            return False
        return True


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return the seconds between signs of life; None: none is wanted, or not from this process."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdecimal() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 1e6 / _OFTEN
