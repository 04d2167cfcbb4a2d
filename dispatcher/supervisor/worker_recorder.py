"""Workers' messages, recorded and answered: heartbeats and declarations."""

import math
from collections.abc import Collection, Iterable, Sequence
from functools import partial

import structlog

from dispatcher import wire
from dispatcher.errors import StoreRefused
from dispatcher.execution import OpenRun
from dispatcher.store.api import WorkerStore
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.turn import Memory, Request, Turn
from dispatcher.times import Alarm, Instant, StoreTime
from dispatcher.words import (
    Accepted,
    Beat,
    Declaration,
    Invalid,
    Note,
    Refused,
    Renewed,
    messages_of_notice,
)

log = structlog.get_logger()

#: Milliseconds of a gap that is longer than any lease.
EVER = 2**48


class WorkerRecorder:
    """Passes workers' messages to the store, which alone judges whether their lock is valid."""

    def __init__(self, store: WorkerStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._next_look = Alarm()

    def record(self, turn: Turn, requests: Iterable[Request]) -> None:
        """Record messages; the answers leave after the commit.

        Beats are recorded together, but before any later message of the same task. Workers whose
        rows others have locked are to try again.
        """
        if turn.held.tasks:
            held = {*turn.held.tasks.values()}
            requests = [*requests]
            waiting = [one for one in requests if one.message.task_id in held]
            turn.after(partial(self.request_retry, waiting, at=turn.at))
            requests = [one for one in requests if one.message.task_id not in held]
        requests = self._without_locked_limits(turn, [*requests])
        beats: list[Request] = []
        for request in requests:
            if isinstance(request.message, Beat):
                beats.append(request)
                continue
            if any(beat.message.task_id == request.message.task_id for beat in beats):
                self._record_beats(turn, beats)
                beats = []
            self._record_other(turn, request, request.message)
        if beats:
            self._record_beats(turn, beats)

    def _without_locked_limits(self, turn: Turn, requests: list[Request]) -> list[Request]:
        """Lock the limits that workers close; let those whose limits others have locked try again.

        A tick waits for none, or two nodes might wait for each other, or all for a person.
        """
        closed = {name for one in requests if (name := _closed(one)) is not None}
        if not closed or not (locked := self._store.lock_limits(closed)):
            return requests
        waiting = [one for one in requests if _closed(one) in locked]
        turn.after(partial(self.request_retry, waiting, at=turn.at))
        return [one for one in requests if _closed(one) not in locked]

    def _record_beats(self, turn: Turn, requests: Sequence[Request]) -> None:
        beats = [one.message for one in requests if isinstance(one.message, Beat)]
        for request, answer in zip(
            requests, self._store.heartbeat(beats, now=turn.now), strict=True
        ):
            turn.after(partial(self._log_beat, request, answer))
            turn.after(partial(request.answer, answer, turn.now))

    def _record_other(self, turn: Turn, request: Request, message: Note | Declaration) -> None:
        answer: Accepted | Refused
        if isinstance(message, Note):
            answer = self._store.note(message, now=turn.now)
            turn.after(partial(self._log_refusal, request, answer))
        else:
            answer = self._store.declare(message, now=turn.now)
            turn.abandoned |= isinstance(answer, Accepted) and not self._memory.live.of_task(
                message.task_id
            )
            turn.after(partial(self._remember_declared, request, message, answer, turn.at))
        turn.after(partial(request.answer, answer, turn.now))

    def record_notices(self, turn: Turn, notices: Collection[wire.Notice]) -> None:
        """Record what workers sent by systemd's protocol, which has no answers."""
        claims = self._store.locks_of([notice.uid for notice in notices])
        turn.doubted |= {notice.uid for notice in notices} - claims.keys()
        messages = [
            message
            for notice in notices
            if notice.uid in claims
            for message in messages_of_notice(notice, *claims[notice.uid])
        ]
        self.record(turn, [Request(message, _unanswered) for message in messages])

    def record_door(self, turn: Turn, door: wire.Door) -> None:
        """Record that workers' sockets are missing, or are back.

        Nobody is judged by silence meanwhile. Then each lease is renewed once, whatever its ttl: a
        worker may have failed to send until now.
        """
        if door.shut:
            turn.after(partial(log.warning, "workers.unreachable", reason=door.shut))
        else:
            node = self._memory.settings.node_id
            but = turn.held.tasks.keys()
            leases = self._store.renew_short(node, gap_ms=EVER, but=but, now=turn.now)
            turn.gap = math.inf
            turn.after(partial(log.warning, "workers.reachable", leases=leases))
        turn.after(partial(self._remember_door, door))

    def _remember_door(self, door: wire.Door) -> None:
        self._memory.workers_unreachable = door.shut or None

    def record_cli_declarations(self, turn: Turn) -> None:
        """Remember, once a poll, declarations that command line or client wrote to the store."""
        if not self._memory.live or not self._next_look.is_due(turn.at):
            return
        for uid in self._store.declared(self._memory.settings.node_id):
            live = self._memory.live.get(uid)
            if live is not None and live.exit_by is None and not live.end_sent:
                turn.after(partial(self._remember_cli_declaration, live, turn.at))
        turn.after(partial(self._next_look.set, turn.at + self._memory.settings.poll))

    def declare_again(self, turn: Turn, runs: Iterable[OpenRun]) -> bool:
        """Record accepted declarations that these runs lack, as a failover forgot them."""
        live = self._memory.live
        forgotten = [
            live[run.run_uid].declaration
            for run in runs
            if run.declared is None and run.run_uid in live
        ]
        answers = [self._store.declare(one, now=turn.now) for one in forgotten if one is not None]
        return bool(answers)

    def request_retry(self, requests: Sequence[Request], *, at: Instant) -> None:
        """Answer that the store took nothing.

        Remember who sent, lock unchecked, so that our own outage costs nobody a lease.
        """
        for request in requests:
            for live in self._memory.live.of_task(request.message.task_id):
                live.unrecorded_at = at
            request.answer(None, StoreTime(0))

    @staticmethod
    def refuse(request: Request, error: StoreRefused) -> None:
        """Answer that the store can never take the message."""
        request.answer(Invalid(f"the store refuses it: {error}"), StoreTime(0))

    def _expect_exit(self, live: LiveRun, at: Instant) -> bool:
        """Set when a run that declared its end must exit; return whether that is new."""
        if live.exit_by is not None:
            return False
        by = Instant(at + self._memory.settings.start.exit_grace)
        self._memory.live.expect_exit(live, by)
        return True

    def _remember_cli_declaration(self, live: LiveRun, at: Instant) -> None:
        if self._expect_exit(live, at):
            log.info("run.declared", **live.ids())

    def _remember_declared(
        self, request: Request, message: Declaration, answer: Accepted | Refused, at: Instant
    ) -> None:
        self._log_refusal(request, answer)
        if isinstance(answer, Refused):
            return
        task_id = message.task_id
        if isinstance(message, Declaration) and message.close is not None:
            seconds = (message.delay_ms or 0) / 1000
            log.info("limit.closed", task_id=task_id, limit=message.close, seconds=seconds)
        live = next(iter(self._memory.live.of_task(task_id)), None)
        if live is not None:
            live.declaration = message
        if live is None or self._expect_exit(live, at):
            log.info("run.declared", task_id=task_id, declared=message.word, **_peer(request))

    def _log_beat(self, request: Request, answer: Renewed | Refused) -> None:
        self._log_refusal(request, answer)
        if isinstance(answer, Renewed):
            log.debug("lease.renewed", task_id=request.message.task_id)

    @staticmethod
    def _log_refusal(request: Request, answer: Renewed | Accepted | Refused) -> None:
        if isinstance(answer, Refused):
            task_id = request.message.task_id
            log.warning("lease.refused", task_id=task_id, error=answer.error, **_peer(request))


def _closed(request: Request) -> str | None:
    """Return the limit that a message closes."""
    return request.message.close if isinstance(request.message, Declaration) else None


def _unanswered(_answer: Renewed | Accepted | Refused | Invalid | None, _now: StoreTime) -> None:
    """Answer nobody: a sender by systemd's protocol waits for nothing."""


def _peer(request: Request) -> dict[str, int]:
    return {} if request.pid is None else {"peer_pid": request.pid}
