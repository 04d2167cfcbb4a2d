"""What workers say, written down and answered: heartbeats and declarations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import structlog

from dispatcher import wire
from dispatcher.store.api import WorkerStore
from dispatcher.supervisor.alarm import Alarm
from dispatcher.supervisor.turn import LiveRun, Memory, Request, Turn
from dispatcher.times import Instant, StoreTime
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed, meant

log = structlog.get_logger()

#: Milliseconds of a gap that is longer than any lease.
EVER = 2**48


class Listener:
    """Passes workers' words to the store, which alone judges whose they are."""

    def __init__(self, store: WorkerStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._next_look = Alarm()

    def hear(self, turn: Turn, request: Request) -> None:
        """Write down what a worker says; it is answered after the commit."""
        words = request.words
        answer: Renewed | Accepted | Refused
        if isinstance(words, Beat):
            answer = self._store.heartbeat(words, now=turn.now)
            turn.after(partial(self._note_beat, request, answer))
        elif isinstance(words, Note):
            answer = self._store.note(words, now=turn.now)
            turn.after(partial(self._note_refused, request, answer))
        else:
            answer = self._store.declare(words, now=turn.now)
            turn.abandoned |= isinstance(answer, Accepted) and not self._is_ours(words.task_id)
            turn.after(partial(self._note_declared, request, words, answer, turn.at))
        turn.after(partial(request.answer, answer, turn.now))

    def hear_notice(self, turn: Turn, notice: wire.Notice) -> None:
        """Hear what a worker said by systemd's protocol, to which there is no answer."""
        if (whose := self._store.lock_of(notice.uid)) is not None:
            for words in meant(notice, *whose):
                self.hear(turn, Request(words, _unanswered))

    def note_door(self, turn: Turn, door: wire.Door) -> None:
        """Judge nobody by a silence while workers' sockets are missing; then begin it anew.

        A worker may have failed to speak until now, whatever its lease: each is renewed once.
        """
        if door.shut:
            turn.after(partial(log.warning, "workers.unreachable", reason=door.shut))
        else:
            node = self._memory.settings.node_id
            leases = self._store.renew_short(node, gap_ms=EVER, now=turn.now)
            turn.gap = math.inf
            turn.after(partial(log.warning, "workers.reachable", leases=leases))
        turn.after(partial(self._note_door, door))

    def _note_door(self, door: wire.Door) -> None:
        self._memory.shut = door.shut or None

    def overhear(self, turn: Turn) -> None:
        """Note, once a poll, what workers declared past us: by command line or client."""
        if not self._memory.live or not self._next_look.is_due(turn.at):
            return
        for uid in self._store.declared(self._memory.settings.node_id):
            live = self._memory.live.get(uid)
            if live is not None and live.exit_by is None and not live.told_to_end:
                turn.after(partial(self._note_overheard, live, turn.at))
        turn.after(partial(self._next_look.set, turn.at + self._memory.settings.poll))

    def _is_ours(self, task_id: int) -> bool:
        return any(live.task_id == task_id for live in self._memory.live.values())

    def _expect_exit(self, live: LiveRun, at: Instant) -> bool:
        """Give a run that has declared its end the time to exit; False: it had that before."""
        if live.exit_by is not None:
            return False
        live.exit_by = Instant(at + self._memory.settings.start.exit_grace)
        return True

    def _note_overheard(self, live: LiveRun, at: Instant) -> None:
        if self._expect_exit(live, at):
            log.info("run.declared", **live.ids())

    def _note_beat(self, request: Request, answer: Renewed | Refused) -> None:
        if isinstance(answer, Refused):
            self._note_refusal(request, answer)
        else:
            log.debug("lease.renewed", task_id=request.words.task_id)

    def _note_refused(self, request: Request, answer: Accepted | Refused) -> None:
        if isinstance(answer, Refused):
            self._note_refusal(request, answer)

    def _note_declared(
        self, request: Request, words: Declaration, answer: Accepted | Refused, at: Instant
    ) -> None:
        if isinstance(answer, Refused):
            self._note_refusal(request, answer)
            return
        task_id, word = words.task_id, words.word
        ours = (live for live in self._memory.live.values() if live.task_id == task_id)
        live = next(ours, None)
        if live is None or self._expect_exit(live, at):
            log.info("run.declared", task_id=task_id, declared=word, **_peer(request))

    @staticmethod
    def _note_refusal(request: Request, answer: Refused) -> None:
        task_id = request.words.task_id
        log.warning("lease.refused", task_id=task_id, error=answer.error, **_peer(request))

    def turn_away(self, requests: Sequence[Request], *, at: Instant) -> None:
        """Have workers ask again: the store did not take what they said.

        Who beat is remembered, whatever the lock: it is not their fault that nobody wrote it down.
        """
        for request in requests:
            for live in self._memory.live.values():
                if live.task_id == request.words.task_id:
                    live.turned_away_at = at
            request.answer(None, StoreTime(0))


def _unanswered(_answer: Renewed | Accepted | Refused | None, _now: StoreTime) -> None:
    """Tell nobody: whoever spoke by systemd's protocol waits for nothing."""


def _peer(request: Request) -> dict[str, int]:
    """Return who said it, where that is known, as a field of the log."""
    return {} if request.pid is None else {"peer_pid": request.pid}
