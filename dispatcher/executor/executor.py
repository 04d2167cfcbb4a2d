"""The executor: hands without a head. It waits once, hears everybody, then acts once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dispatcher import times, wire
from dispatcher.executor.journal import Journal
from dispatcher.executor.log import Log
from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.runs import Runs
from dispatcher.executor.server import Server
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel
from dispatcher.host import files
from dispatcher.host.notify import Notifier
from dispatcher.host.runtime_directory import RuntimeDirectory
from dispatcher.times import NEVER, Instant

#: Seconds for which an embedded executor with no run waits for a daemon: a restart takes less.
LONELY_FOR = 10.0

#: Seconds for which an executor that is being stopped waits for runs that survived SIGKILL.
STOP_PATIENCE = 10.0

#: Seconds of the longest wait while runs live: epoll sleeps on a clock that stops in suspend.
LONGEST_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class ExecutorIdentity:
    """Whose executor this is, as its hello says."""

    node_id: str
    state_dir: str
    boot_id: str
    pid_namespace: str

    def store_id(self) -> str:
        """Return the store that the state directory remembers; empty when it has seen none."""
        with suppress(OSError, ValueError):
            found = files.read(Path(self.state_dir, "store-id"))
            return found.decode("ascii").strip()
        return ""


class Executor:
    """Obeys one daemon at a time, and looks after the runs when there is none."""

    def __init__(
        self,
        node: ExecutorIdentity,
        *,
        kernel: Kernel,
        spawner: Spawner,
        outputs: OutputFiles,
        journal: Journal,
        server: Server,
        notices: Notices,
        log: Log,
        runtime: RuntimeDirectory | None = None,
        embedded: bool = False,
        notifier: Notifier | None = None,
        clock: Callable[[], Instant] = times.instant,
    ) -> None:
        self._node = node
        self._kernel = kernel
        self._server = server
        self._notices = notices
        self._runtime = runtime
        self._journal = journal
        self._log = log
        self._embedded = embedded
        self._notifier = notifier
        self._clock = clock
        self._runs = Runs(
            kernel=kernel,
            spawner=spawner,
            outputs=outputs,
            journal=journal,
            notices=notices,
            log=log,
            send=server.send,
            output_dir=f"{node.state_dir}/output",
            node=node.node_id,
        )
        self._epoch = 0
        self._asked: int | None = None
        self._open = False
        self._leaving = False
        self._shutdown_wanted = False
        self._stopping = False
        self._stuck_since: Instant | None = None
        self._lonely_since: Instant | None = clock()
        self._runs.inherit(clock())
        self._open_when_swept()

    def run(self) -> bool:
        """Work until it is time to leave; say whether no process of a run stays."""
        timeout: float | None = 0.0  # a service manager waits for the first report
        while self.step(timeout):
            timeout = None
        self._runs.close(self._clock())
        return not self._runs.live

    def step(self, timeout: float | None = None) -> bool:
        """Wait once, at most `timeout` seconds, and act once; False when it is time to leave."""
        self._kernel.wait(self._patience(timeout))
        at = self._clock()
        # Looked at after the clock was read: all that came before this instant is found, also where
        # a stop in between (SIGSTOP, a freezer, suspend) made the wait return empty-handed.
        self.tick(self._kernel.wait(0), at)
        if self._notifier is not None:
            self._tell_manager(self._notifier, at)
        return not self._may_leave(at)

    def shut_down(self) -> None:
        """End all runs and leave when they are gone; safe in a signal handler."""
        self._shutdown_wanted = True

    def tick(self, ready: Iterable[int], at: Instant) -> None:
        """Hear everybody, then do all that is due."""
        self._runs.note_exits(ready, at)
        for uid, until in self._notices.hear(ready, at):
            self._runs.extend(uid, until)
        if self._server.accept(ready, at):
            self._greet()
            self._runs.await_word(at)
        for message in self._server.receive(ready):
            self._obey(message, at)
        if self._shutdown_wanted and not self._stopping:
            self._stopping = True
            if self._notifier is not None:
                self._notifier.stopping()
            self._log("executor.stopping", runs=self._runs.live)
            self._runs.end_all(wire.EndedBy.SHUTDOWN, at)
        self._runs.act(at, heard=self._server.heard_all)
        self._notices.tell(at)
        if self._runtime is not None and (at >= self._runtime.due or self._asked is not None):
            # Before an answer too: by that order the daemon knows whose silence was not its own.
            self._keep_names(self._runtime, at)
        self._answer()
        self._server.flush(at)
        if at >= self._log.due:
            self._log.keep_up(at)
        self._open_when_swept()

    def _keep_names(self, runtime: RuntimeDirectory, at: Instant) -> None:
        """Make again what was removed from the runtime directory; the daemon is told of it."""
        if not self._journal.is_there:
            self._journal.make_again()  # in the state directory, if the other is gone
        look = runtime.look((*self._server.names, *self._notices.names), at=at)
        if look.lost is not None:
            self._log("runtime.lost", reason=look.lost)
            self._server.send(wire.Door(shut=look.lost))
        if look.restored is not None:
            self._log("runtime.restored", names=look.restored)
            self._server.send(wire.Door())

    def _tell_manager(self, notifier: Notifier, at: Instant) -> None:
        notifier.alive(at=at)
        notifier.status(f"{self._runs.live} runs" + ("" if self._open else ", sweeping"))
        if self._open:
            notifier.ready()
        if self._stopping:
            notifier.stays(at=at)

    def _open_when_swept(self) -> None:
        if not self._open and not self._runs.sweeping:
            self._open = True
            self._server.open()

    def _greet(self) -> None:
        self._epoch += 1
        self._leaving, self._asked = False, None
        node = self._node
        self._server.send(
            wire.Hello(
                version=wire.VERSION,
                node_id=node.node_id,
                state_dir=node.state_dir,
                boot_id=node.boot_id,
                pid_namespace=node.pid_namespace,
                store_id=node.store_id(),
                epoch=self._epoch,
                pid=self._kernel.pid,
                release=wire.RELEASE,
                marks=self._runs.marks,
            )
        )
        self._notices.greet()
        for run in self._runs.described():
            self._server.send(run)
        self._server.send(wire.HelloEnd())
        if self._runtime is not None and self._runtime.trouble is not None:
            self._server.send(wire.Door(shut=self._runtime.trouble))
        self._log("daemon.greeted", epoch=self._epoch, runs=len(self._runs))

    def _obey(self, message: wire.ToExecutor, at: Instant) -> None:
        match message:
            case wire.Start():
                self._start(message, at)
            case wire.End():
                self._runs.end(
                    message.uid,
                    message.reason,
                    at,
                    at_once=message.at_once,
                    longest_grace=message.longest_grace,
                )
            case wire.Forget():
                self._runs.forget(message.uid, at)
            case wire.Noted():
                self._notices.noted(message.uid, message.serial)
            case wire.Renew():
                self._runs.renew(message.deadlines)
            case wire.Ping():
                self._runs.note_unwatched(at)
                self._asked = message.sequence
            case wire.Leave():
                self._leaving = True

    def _answer(self) -> None:
        """Answer a ping after all that was known when it came: the daemon judges by that order."""
        if self._asked is not None:
            self._notices.tell_all()
            self._server.send(wire.Pong(sequence=self._asked))
            self._asked = None

    def _start(self, start: wire.Start, at: Instant) -> None:
        if start.epoch != self._epoch:
            error = f"it is of epoch {start.epoch}, this is {self._epoch}"
            self._runs.refuse(start, wire.Fault.LATE, error)
        elif self._stopping:
            self._runs.refuse(start, wire.Fault.HOST, "the executor is stopping")
        else:
            self._runs.start(start, at)

    def _patience(self, timeout: float | None) -> float | None:
        due = min(self._runs.due, self._notices.due, self._server.due, self._log.due)
        if self._runtime is not None:
            due = min(due, self._runtime.due)
        if self._embedded and self._lonely_since is not None:
            due = min(due, Instant(self._lonely_since + LONELY_FOR))
        wait = max(0.0, due - self._clock())
        if self._runs.live:
            wait = min(wait, LONGEST_WAIT)
        if self._notifier is not None:
            wait = min(wait, self._patience_of_manager(self._notifier))
        if timeout is not None:
            wait = min(wait, timeout)
        return None if wait == NEVER else wait

    def _patience_of_manager(self, notifier: Notifier) -> float:
        """Return the seconds within which the service manager must receive something."""
        if self._open and not notifier.is_ready:
            return LONGEST_WAIT  # its queue was full
        return NEVER if notifier.interval is None else notifier.interval

    def _may_leave(self, at: Instant) -> bool:
        if self._stopping and (not self._runs.live or self._gives_up(at)):
            return True
        if not self._embedded or self._runs.unforgotten or self._server.connected:
            self._lonely_since = None
            return self._embedded and self._leaving and not self._runs.unforgotten
        if self._lonely_since is None:
            self._lonely_since = at
        return self._leaving or at - self._lonely_since >= LONELY_FOR

    def _gives_up(self, at: Instant) -> bool:
        """Say whether SIGKILL has not ended what is left for long enough; then log what stays."""
        stuck = self._runs.unkillable
        if len(stuck) < self._runs.live:
            self._stuck_since = None
            return False
        self._stuck_since = at if self._stuck_since is None else self._stuck_since
        if at - self._stuck_since < STOP_PATIENCE:
            return False
        for run in stuck:
            self._log("run.left_behind", **run.ids, pid=run.pid)
        return True
