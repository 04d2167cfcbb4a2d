"""The executor's loop: it waits once, reads everything, then acts once. It decides no policy."""

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from dispatcher import times, wire
from dispatcher.executor.leaders import Leaders
from dispatcher.executor.outside import Outside
from dispatcher.executor.processes.tree import Tree
from dispatcher.executor.runs import Runs
from dispatcher.executor.table import RunTable
from dispatcher.host import files
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import RuntimeDirectory
from dispatcher.times import NEVER, Instant

#: Seconds for which an embedded executor with no run waits for a daemon: a restart takes less.
IDLE_LIMIT = 10.0

#: Seconds for which an executor that is being stopped waits for runs that survived SIGKILL.
STOP_PATIENCE = 10.0

#: Seconds of the longest wait while runs live: epoll sleeps on a clock that stops in suspend.
LONGEST_WAIT = 1.0


class ExecutorIdentity(Struct, frozen=True):
    """The node and the namespaces of an executor, as in its hello."""

    node_id: str
    state_dir: str
    boot_id: str
    pid_namespace: str

    def store_id(self) -> str:
        """Return the store recorded in the state directory; empty if there is none."""
        with suppress(OSError, ValueError):
            found = files.read(Path(self.state_dir, "store-id"))
            return found.decode("ascii").strip()
        return ""


class Executor:
    """Serves one daemon at a time, and looks after the runs when there is none."""

    def __init__(
        self,
        identity: ExecutorIdentity,
        outside: Outside,
        *,
        runtime: RuntimeDirectory | None = None,
        embedded: bool = False,
        notifier: Notifier | None = None,
        clock: Callable[[], Instant] = times.instant,
    ) -> None:
        """Take over the predecessor's runs. Raises ConfigError if its journal cannot be read."""
        self._identity = identity
        self._kernel = outside.kernel
        self._server = outside.server
        self._notices = outside.notices
        self._report = outside.report
        self._marks = outside.spawner.why_unmarked is None
        self._runtime = runtime
        self._embedded = embedded
        self._notifier = notifier
        self._clock = clock
        self.table = table = RunTable()
        self._leaders = leaders = Leaders(outside, table)
        self.tree = Tree(outside.kernel, outside.outputs, table.known, outside.report)
        output_dir = f"{identity.state_dir}/output"
        node = identity.node_id
        self.runs = Runs(outside, table, leaders, self.tree, node=node, output_dir=output_dir)
        self._epoch = 0
        self._ping: int | None = None
        self.is_open = False
        """Whether daemons are let in: what the predecessor left has been swept."""
        self._leaving = False
        self._shutdown_wanted = False
        self._stopping = False
        self._stuck_since: Instant | None = None
        self._idle_since: Instant | None = clock()
        self.runs.inherit(clock())
        self._open_when_swept()

    def run(self) -> bool:
        """Work until it is time to leave; return whether no process of a run stays."""
        timeout: float | None = 0.0  # a service manager waits for the first report
        while self.step(timeout):
            timeout = None
        self.runs.close(self._clock())
        return not self.table.live

    def step(self, timeout: float | None = None) -> bool:
        """Wait once, at most `timeout` seconds, and act once; False when it is time to leave."""
        self._kernel.wait(self.patience(timeout))
        at = self._clock()
        # This look follows the reading of the clock, so it finds everything that came before `at`,
        # also where a stop in between (SIGSTOP, a freezer, suspend) made the wait return nothing.
        self.tick(self._kernel.wait(0), at)
        if self._notifier is not None:
            self._notify_manager(self._notifier, at)
        return not self._may_leave(at)

    def shut_down(self) -> None:
        """End all runs and leave when they are gone; safe in a signal handler."""
        self._shutdown_wanted = True

    def tick(self, ready: Collection[int], at: Instant) -> None:
        """Read everything, then do all that is due."""
        self.runs.record_events(ready, at)
        for uid, until in self._notices.receive(ready, at):
            self.table.extend(uid, until)
        if self._server.accept(ready, at):
            self._greet()
            self.table.delay_absence(at)
        for message in self._server.receive(ready):
            self._handle(message, at)
        if self._shutdown_wanted and not self._stopping:
            self._stopping = True
            if self._notifier is not None:
                self._notifier.report_stopping()
            self._report.log("executor.stopping", runs=len(self.table.live))
            self.runs.end_all(wire.EndedBy.SHUTDOWN, at)
        self.runs.act(at, all_read=self._server.all_read)
        self._notices.send_due(at)
        if self._runtime is not None and (at >= self._runtime.due or self._ping is not None):
            # Before a pong too: from that order the daemon knows whose silence we caused.
            self._restore_names(self._runtime, at)
        self._send_pong()
        self._server.flush(at)
        if at >= self._report.log.due:
            self._report.log.catch_up(at)
        self._open_when_swept()

    def _restore_names(self, runtime: RuntimeDirectory, at: Instant) -> None:
        """Make again what was removed from the runtime directory, and report it to the daemon."""
        if not self._report.journal.is_there:
            self._report.journal.restore()  # in the state directory, if the other is gone
        look = runtime.look((*self._server.names, *self._notices.names), at=at)
        if look.lost is not None:
            self._report.log("runtime.lost", reason=look.lost)
            self._server.send(wire.Door(shut=look.lost))
        if look.restored is not None:
            self._report.log("runtime.restored", names=look.restored)
            self._server.send(wire.Door())

    def _notify_manager(self, notifier: Notifier, at: Instant) -> None:
        notifier.send_sign_of_life(at=at)
        notifier.report_status(
            f"{len(self.table.live)} runs" + ("" if self.is_open else ", sweeping")
        )
        if self.is_open:
            notifier.report_ready()
        if self._stopping:
            notifier.extend_stop(at=at)

    def _open_when_swept(self) -> None:
        if not self.is_open and not self.runs.sweeping:
            self.is_open = True
            self._server.open()

    def _greet(self) -> None:
        self._epoch += 1
        self._leaving, self._ping = False, None
        identity = self._identity
        self._server.send(
            wire.Hello(
                version=wire.VERSION,
                node_id=identity.node_id,
                state_dir=identity.state_dir,
                boot_id=identity.boot_id,
                pid_namespace=identity.pid_namespace,
                store_id=identity.store_id(),
                epoch=self._epoch,
                pid=self._kernel.pid,
                release=wire.RELEASE,
                marks=self._marks,
            )
        )
        self._notices.resend_unconfirmed()
        for run in self.runs.reported():
            self._server.send(run)
        self._server.send(wire.HelloEnd())
        if self._runtime is not None and self._runtime.trouble is not None:
            self._server.send(wire.Door(shut=self._runtime.trouble))
        self._report.log("daemon.greeted", epoch=self._epoch, runs=len(self.table.known))

    def _handle(self, message: wire.ToExecutor, at: Instant) -> None:
        match message:
            case wire.Start():
                self._start(message, at)
            case wire.End():
                self.runs.end(
                    message.uid,
                    message.reason,
                    at,
                    at_once=message.at_once,
                    longest_grace=message.longest_grace,
                )
            case wire.Forget():
                self.runs.forget(message.uid, at)
            case wire.Noted():
                self._notices.confirm(message.uid, message.serial)
            case wire.Renew():
                self.table.renew(message.deadlines)
            case wire.Ping():
                self._leaders.record_unwatched(at)
                self._ping = message.sequence
            case wire.Leave():
                self._leaving = True

    def _send_pong(self) -> None:
        """Answer a ping after all that was known when it came: the daemon judges by that order."""
        if self._ping is not None:
            self._notices.send_all()
            self._server.send(wire.Pong(sequence=self._ping))
            self._ping = None

    def _start(self, start: wire.Start, at: Instant) -> None:
        if start.epoch != self._epoch:
            error = f"it is of epoch {start.epoch}, this is {self._epoch}"
            self._report.start_failed(start, wire.Fault.LATE, error)
        elif self._stopping:
            self._report.start_failed(start, wire.Fault.HOST, "the executor is stopping")
        else:
            self.runs.start(start, at, marked=self._marks)

    def patience(self, timeout: float | None) -> float | None:
        """Return for how many seconds to wait, at most `timeout`; None: until something happens."""
        due = min(self.runs.due, self._notices.due, self._server.due, self._report.log.due)
        if self._runtime is not None:
            due = min(due, self._runtime.due)
        if self._embedded and self._idle_since is not None:
            due = min(due, Instant(self._idle_since + IDLE_LIMIT))
        wait = max(0.0, due - self._clock())
        if self.table.live:
            wait = min(wait, LONGEST_WAIT)
        if self._notifier is not None:
            wait = min(wait, self._patience_of_manager(self._notifier))
        if timeout is not None:
            wait = min(wait, timeout)
        return None if wait == NEVER else wait

    def _patience_of_manager(self, notifier: Notifier) -> float:
        """Return the seconds within which the service manager must receive something."""
        if self.is_open and not notifier.is_ready:
            return LONGEST_WAIT  # its queue was full
        return NEVER if notifier.interval is None else notifier.interval

    def _may_leave(self, at: Instant) -> bool:
        if self._stopping and (not self.table.live or self._gives_up(at)):
            return True
        if not self._embedded or self.table.has_unsettled or self._server.connected:
            self._idle_since = None
            return self._embedded and self._leaving and not self.table.has_unsettled
        if self._idle_since is None:
            self._idle_since = at
        return self._leaving or at - self._idle_since >= IDLE_LIMIT

    def _gives_up(self, at: Instant) -> bool:
        """Return whether SIGKILL has failed for long enough; then log the runs that stay."""
        stuck = [run for run in self.table.live.values() if run.unkillable]
        if len(stuck) < len(self.table.live):
            self._stuck_since = None
            return False
        self._stuck_since = at if self._stuck_since is None else self._stuck_since
        if at - self._stuck_since < STOP_PATIENCE:
            return False
        for run in stuck:
            self._report.log("run.left_behind", **run.ids, pid=run.pid)
        return True
