"""Runs an agent's command line under the claim of this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import IO, NoReturn

from worker_stub import names
from worker_stub.agent.desk import Desk
from worker_stub.agent.facts import Kind, line_of
from worker_stub.agent.handover import Before
from worker_stub.agent.run import AgentEnd, AgentRun, Farewell
from worker_stub.agent.spokesman import Spokesman
from worker_stub.agent.stream import Lines
from worker_stub.child import StopSignal, cannot_start, follow, start
from worker_stub.verify import verify
from worker_stub.worker import Refused, Worker

#: Seconds that the agent has to end once its claim is lost.
LOST_GRACE = 2.0

#: Seconds of silence after which an agent that has declared its end with a tool is ended.
PATIENCE = 60.0

#: Seconds for which a limit is closed whose provider names no time.
UNKNOWN_RESET = 900.0

#: Exit codes by what is declared, which outranks them.
_CODES = {"succeed": 0, "fail": 1, "defer": 75, "hold": 78}


class Adapter:
    """One run of an agent."""

    def __init__(self, kind: Kind, *, check: str | None, linger: float, limit: str | None) -> None:
        """Take the claim from the environment. Raises RuntimeError without one.

        `check`: a shell's command that verifies a success; `linger`: the seconds that the agent may
        take to exit after its last event; `limit`: the limit to close at a usage limit.
        """
        self._kind = kind
        self._check = check
        self._linger = linger
        self._limit = limit
        self._before = Before()
        self._payload: bytes | None = None
        self._reported: object = None
        self._stop = StopSignal()
        self._run = AgentRun(kind, spent=self._before.spent)
        self._over_at: float | None = None
        self._seen_at = time.monotonic()
        self._worker = Worker(beats="events", on_refused=self._leave)
        self._spokesman = Spokesman(
            self._worker, self._before, declares=self._stop.wake, lost=self._leave
        )

    def run(self, command: Sequence[str]) -> int:
        """Run the command; declare how it ended; return the exit code. Raises `Refused`."""
        with self._worker, closing(Desk(self._spokesman.answer)) as desk:
            os.environ[names.AGENT_SOCKET] = desk.address
            try:
                code = self._run_agent(command)
            except OSError as error:
                return cannot_start(command[0], error)
            end = self._spokesman.declared or self._run.end(
                code, is_verified=self._check is not None
            )
            if end.op == "succeed" or (end.op == "exit" and code == 0):
                end = self._verified(end)
        if self._stop.received:
            return code or 128 + signal.SIGTERM
        return self._declare(end, code)

    def _run_agent(self, command: Sequence[str]) -> int:
        session = self._before.session(self._kind.program)
        told = self._before.told(is_resumed=True)
        resumed = self._kind.resumed(command, session, told) if session else None
        if resumed is not None:
            code = self._follow(resumed, is_resumed=True)
            if self._run.has_begun or self._spokesman.declared or self._stop.received:
                return code
            print_line(f"session {session} cannot be resumed: begin anew")
            self._run = AgentRun(self._kind, spent=self._before.spent)
        return self._follow(command, is_resumed=False)

    def _follow(self, command: Sequence[str], *, is_resumed: bool) -> int:
        with self._stdin(is_resumed=is_resumed) as stdin:
            child = start(command, stdin=stdin)
        run, lines, farewell = self._run, Lines(), Farewell()

        def see(line: bytes | None) -> None:
            if line is not None:
                run.see(self._kind.read(line), now=time.time())

        def seen(piece: bytes) -> None:
            for line in lines.of(piece):
                see(line)
            self._seen_at = time.monotonic()
            self._report()

        def tick() -> float | None:
            at = time.monotonic()
            if (signum := farewell.signal_at(at, due=self._due(at))) is not None:
                child.send_signal(signum)
            return farewell.left(at)

        code = follow(child, self._stop, seen=seen, tick=tick)
        see(lines.rest())
        return code

    def _due(self, at: float) -> float | None:
        """Return when its time to exit is over; None: it works."""
        self._over_at = (self._over_at or at) if self._run.is_over else None
        if self._over_at is not None:
            return self._over_at + self._linger
        return self._seen_at + PATIENCE if self._spokesman.declared else None

    def _report(self) -> None:
        """Report what is new with the next heartbeat, which is due now."""
        run, worker = self._run, self._worker
        worker.progress(run.progress, run.note or None)
        self._report_checkpoint()
        worker.alive()

    def _report_checkpoint(self) -> None:
        own = self._spokesman.checkpoint
        known = {**self._run.checkpoint, **({} if own is None else {"own": own})}
        if known != self._reported and (self._run.session or own is not None):
            self._reported = known
            self._worker.checkpoint(known)

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
        worker.flush()
        match end.op:
            case "succeed":
                last_words = {} if "result" in end.more else run.last_words
                worker.succeed({**run.result, **last_words, **end.more})
            case "fail":
                worker.fail(end.reason, **end.more)
            case "hold":
                worker.hold(end.reason, **end.more)
            case "defer":
                self._defer(end)
            case "exit":
                return code
        return _CODES[end.op]

    def _defer(self, end: AgentEnd) -> None:
        delay = None if end.until is None else max(0.0, end.until - time.time())
        limit = end.more.get("limit", self._limit)
        reason = end.reason or "usage limit"
        if limit is not None:
            try:
                self._worker.defer(
                    UNKNOWN_RESET if delay is None else delay, close=limit, reason=reason
                )
            except Refused as refusal:
                if refusal.error != names.NOT_TAKEN:
                    raise
                print_line(str(refusal))
            else:
                return
        self._worker.defer(delay, reason=reason)

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
