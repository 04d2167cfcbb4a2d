"""Runs an agent's command line under the claim of this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, NoReturn

from worker_stub import names
from worker_stub.agent.facts import Kind, line_of
from worker_stub.agent.handover import Before
from worker_stub.agent.run import AgentEnd, AgentRun, Farewell
from worker_stub.agent.stream import Lines
from worker_stub.child import StopSignal, cannot_start, follow, start
from worker_stub.verify import verify
from worker_stub.worker import Refused, Worker

#: Seconds that the agent has to end once its claim is lost.
LOST_GRACE = 2.0


class Adapter:
    """One run of an agent."""

    def __init__(self, kind: Kind, *, check: str | None, linger: float) -> None:
        """Take the claim from the environment. Raises RuntimeError without one.

        `check`: a shell's command that verifies a success; `linger`: the seconds that the agent may
        take to exit after its last event.
        """
        self._kind = kind
        self._check = check
        self._linger = linger
        self._before = Before()
        self._payload: bytes | None = None
        self._reported: object = None
        self._stop = StopSignal()
        self._run = AgentRun(kind, spent=self._before.spent)
        self._worker = Worker(beats="events", on_refused=self._leave)

    def run(self, command: Sequence[str]) -> int:
        """Run the command; declare how it ended; return the exit code. Raises `Refused`."""
        with self._worker:
            try:
                code = self._run_agent(command)
            except OSError as error:
                return cannot_start(command[0], error)
            end = self._run.end(code, is_verified=self._check is not None)
            if end.op == "succeed" or (end.op == "exit" and code == 0):
                end = self._verified(end)
        if self._stop.received:
            return code or 128 + signal.SIGTERM
        return self._declare(end, code)

    def _run_agent(self, command: Sequence[str]) -> int:
        session = self._before.session(self._kind.program)
        resumed = self._kind.resumed(command, session) if session else None
        if resumed is not None:
            code = self._follow(resumed, is_resumed=True)
            if self._run.has_begun or self._stop.received:
                return code
            print_line(f"session {session} cannot be resumed: begin anew")
            self._run = AgentRun(self._kind, spent=self._before.spent)
        return self._follow(command, is_resumed=False)

    def _follow(self, command: Sequence[str], *, is_resumed: bool) -> int:
        with self._stdin(is_resumed=is_resumed) as stdin:
            child = start(command, stdin=stdin)
        run, lines, farewell = self._run, Lines(), Farewell(self._linger)

        def see(line: bytes | None) -> None:
            if line is not None:
                run.see(self._kind.read(line), now=time.time())

        def seen(piece: bytes) -> None:
            for line in lines.of(piece):
                see(line)
            self._report()

        def tick() -> float | None:
            at = time.monotonic()
            if (signum := farewell.signal_at(at, is_over=run.is_over)) is not None:
                child.send_signal(signum)
            return farewell.left(at)

        code = follow(child, self._stop, seen=seen, tick=tick)
        see(lines.rest())
        return code

    def _report(self) -> None:
        """Report what is new with the next heartbeat, which is due now."""
        run, worker = self._run, self._worker
        worker.progress(run.progress, run.note or None)
        self._report_checkpoint()
        worker.alive()

    def _report_checkpoint(self) -> None:
        checkpoint = self._run.checkpoint if self._run.session else None
        if checkpoint != self._reported:
            self._reported = checkpoint
            self._worker.checkpoint(checkpoint)

    def _verified(self, end: AgentEnd) -> AgentEnd:
        if self._check is None or self._stop.received:
            return end
        self._worker.progress(note=line_of(f"verify: {self._check}"))
        self._worker.alive()
        why = verify(self._check, self._stop, alive=self._worker.alive)
        return end if why is None else AgentEnd(op="fail", reason=why)

    def _declare(self, end: AgentEnd, code: int) -> int:
        worker, run = self._worker, self._run
        self._report_checkpoint()
        match end.op:
            case "succeed":
                worker.flush()
                worker.succeed(run.result)
                return 0
            case "fail":
                worker.flush()
                worker.fail(end.reason)
                return 1
            case "defer":
                worker.progress(note=f"limited: {end.reason or 'its provider says no more'}")
                worker.flush()
                until = end.until
                worker.defer(None if until is None else max(0.0, until - time.time()))
                return 75
        worker.flush()
        return code

    @contextmanager
    def _stdin(self, *, is_resumed: bool) -> Iterator[IO[bytes] | None]:
        """Yield the payload with what is told of earlier runs; None: our own stdin."""
        told = self._before.told(is_resumed=is_resumed) if self._kind.is_told else ""
        if not told:
            yield None
            return
        if self._payload is None:
            with open(0, "rb", closefd=False) as ours:
                self._payload = ours.read()
        with os.fdopen(os.memfd_create("prompt"), "w+b") as file:
            file.write(
                self._payload
                + (b"\n\n" if self._payload else b"")
                + told.encode("utf-8", "replace")
                + b"\n"
            )
            file.seek(0)
            yield file

    def _leave(self, refusal: Refused) -> NoReturn:
        """End the agent and this process: another run may own the task already."""
        print_line(str(refusal))
        if (child := self._stop.child) is not None:
            child.terminate()
            try:
                child.wait(LOST_GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
        os._exit(names.LEASE_LOST)


def print_line(text: str) -> None:
    """Write a line of our own to stderr."""
    sys.stderr.write(f"worker_stub: {text}\n")
    sys.stderr.flush()
