"""The daemon and the executor of a round: started, killed, stopped, and found."""

import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from dispatcher import times
from tests.crash.family import Family
from tests.e2e.world import Daemon, World
from tests.rounds.actor import start_ticks

#: A process: pid and start ticks.
Identity = tuple[int, int]


class Node:
    """One at a time of each. A context manager: at its end nobody is left."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.family = Family()
        self.daemon: Daemon | None = None
        self.executors_killed: list[int] = []
        """When, in the store's time."""
        self._needed: list[int] = []
        self._daemons: list[Daemon] = []
        self._lives = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._lives.__exit__(*error)
        finally:
            self.family.end()

    def start(self) -> None:
        """Start a daemon; it starts an executor if none lives."""
        if self._daemons:
            self._needed.append(times.wall_clock())
        life = self.world.daemon(started=False, alone=False)
        self.daemon = self._lives.enter_context(life)
        self._daemons.append(self.daemon)

    def kill(self, *, daemon: bool, executor: bool) -> bool:
        """Kill one or both at once; False when nobody was there."""
        found = self.executor() if executor else None
        if found is not None:
            # Stopped first: it is not to see its daemon go.
            send(found, signal.SIGSTOP if daemon else signal.SIGKILL)
        if daemon and self.daemon is not None:
            self.daemon.kill()
        if found is not None:
            send(found, signal.SIGKILL)
            self.executors_killed.append(times.wall_clock())
            if not daemon:
                self._needed.append(times.wall_clock())
        killed = found is not None or (daemon and self.daemon is not None)
        self.daemon = None if daemon else self.daemon
        return killed

    def executor(self) -> Identity | None:
        """Return the executor that lives."""
        for pid in self.family.living():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"dispatcher.executor" in words and str(self.world.state_dir).encode() in words:
                    return pid, start_ticks(pid)
        return None

    def stop(self) -> None:
        """Let the daemon drain; it and its executor go."""
        assert self.daemon is not None
        self.daemon.terminate()

    def expect_alive(self) -> None:
        """Fail when a daemon went that nobody killed."""
        if self.daemon is not None:
            assert self.daemon.process.poll() is None, self.daemon.output()

    def until_normal(self) -> list[float]:
        """Return the seconds from each start, and each executor's death, to the next greeting."""
        greetings = sorted(
            times.from_iso(event["timestamp"])
            for daemon in self._daemons
            for event in daemon.events("executor.connected")
        )
        found = []
        for moment in self._needed:
            later = [greeting for greeting in greetings if greeting >= moment]
            found += [(later[0] - moment) / 1000] if later else []
        return found


def send(process: Identity, signum: signal.Signals) -> bool:
    """Signal exactly this process; False when it is gone."""
    pid, ticks = process
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if start_ticks(pid) == ticks:
                signal.pidfd_send_signal(handle, signum)
                return True
        finally:
            os.close(handle)
    return False
