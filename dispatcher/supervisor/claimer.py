"""Which tasks become ready and are claimed next, and their start."""

from collections import Counter
from collections.abc import Container, Iterator
from functools import partial

import structlog

from dispatcher import wire
from dispatcher.execution import Claim
from dispatcher.executor_api import for_version_3, start_message
from dispatcher.supervisor.settler import Settler
from dispatcher.supervisor.turn import LiveRun, Shared, Turn
from dispatcher.times import NEVER, Alarm, Instant, StoreTime
from dispatcher.wire import RunUid

log = structlog.get_logger()

#: Tasks claimed in one transaction. Bounds how long a worker waits for its answer.
CLAIM_BATCH = 200


#: Scheduled tasks moved to ready in one transaction. Bounds how long a worker waits for its answer.
DUE_BATCH = 500


class Claimer:
    """Claims as many tasks as there are free slots, from each queue in turn."""

    def __init__(self, shared: Shared, settler: Settler) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._settler = settler
        self._last_queue = ""
        self.scheduled = Alarm(NEVER)
        """For the scheduled task that is due next."""

    def move_due(self, turn: Turn) -> None:
        """Move scheduled tasks that are due to ready."""
        moved = self._store.move_due(limit=DUE_BATCH, now=turn.now)
        turn.again |= moved == DUE_BATCH
        turn.after(partial(self.scheduled.set, turn.instant_of(self._store.next_due())))

    def fill_slots(self, turn: Turn) -> None:
        """Claim for every free slot, as far as the host can bear it."""
        memory = self._memory
        if memory.stopping.how is not None or not memory.is_served_by(self._executor):
            return
        if memory.hello is None or memory.surplus or turn.claims_blocked:
            return
        held = len(memory.live) - len(turn.closed & memory.live.keys())
        room = memory.pause.room(living=memory.living, at=turn.at)
        limit = min(memory.settings.slots, room)
        unusable = memory.settings.start.unusable
        for claim in self._claims(turn, min(CLAIM_BATCH, int(limit) - held)):
            turn.after(partial(self._remember_claimed, claim, turn.at))
            if (why := unusable.get(claim.profile or "")) is None:
                turn.after(partial(self._start, claim, memory.hello.epoch, turn.now, turn.at))
            else:
                mended = f"dispatcher reload, then dispatcher release {claim.task_id}"
                why = f"its profile cannot be used: {why}; once that is mended: {mended}"
                self._settler.hold(turn, claim, why)
                turn.again = True  # its slot is free

    def _claims(self, turn: Turn, free: int) -> Iterator[Claim]:
        """Share the free slots among the queues with ready tasks, after the last one served."""
        if free <= 0:
            return
        room = self._room(turn)
        full = {queue for queue, left in room.items() if left <= 0}
        # Full queues must not hide others behind them: read as many more.
        found = self._store.ready_queues(after=self._last_queue, limit=free + len(full))
        queues = [queue for queue in found if queue not in full][:free]
        while queues and free:
            unexhausted = []
            for position, queue in enumerate(queues):
                fair = -(-free // (len(queues) - position))
                share = min(fair, room.get(queue, fair))
                claims = self._claim(turn, queue, share)
                free -= len(claims)
                if queue in room:
                    room[queue] -= len(claims)
                if len(claims) == share and room.get(queue, free) > 0:
                    unexhausted.append(queue)
                yield from claims
                if not claims:  # damaged tasks were held: go on in the next tick
                    turn.again = True
                    return
            queues = unexhausted

    def _room(self, turn: Turn) -> dict[str, int]:
        """Return how many more tasks of each limited queue may run on this node."""
        limits = self._memory.settings.concurrency
        running = self._running(turn.closed) if limits else Counter()
        return {queue: limit - running[queue] for queue, limit in limits.items()}

    def full_queues(self) -> dict[str, int]:
        """Return the queues that have reached their limit here, with the limit."""
        limits = self._memory.settings.concurrency
        running = self._running() if limits else Counter()
        return {queue: limit for queue, limit in limits.items() if running[queue] >= limit}

    def _running(self, closed: Container[RunUid] = ()) -> Counter[str]:
        return Counter(live.queue for uid, live in self._memory.live.items() if uid not in closed)

    def _claim(self, turn: Turn, queue: str, limit: int) -> list[Claim]:
        turn.after(partial(self._remember_served, queue))
        return self._store.claim(
            queue,
            limit=limit,
            node=self._memory.settings.node_id,
            output_dir=self._memory.settings.output_dir,
            until=self._memory.settings.takeover_at(turn.now),
            now=turn.now,
        )

    def _remember_served(self, queue: str) -> None:
        self._last_queue = queue

    def _remember_claimed(self, claim: Claim, at: Instant) -> None:
        live = self._memory.live[claim.run_uid] = LiveRun.of(claim)
        self._memory.figures.claims += 1
        self._memory.figures.claimed_at = at
        log.info("task.claimed", **live.ids())

    def _start(self, claim: Claim, epoch: int, now: StoreTime, at: Instant) -> None:
        deadlines = {}
        if self._memory.settings.absence_limit is not None:
            deadlines = self._memory.settings.kill_deadlines(at)
        message = start_message(
            claim, self._memory.settings.start, epoch=epoch, now=now, at=at, deadlines=deadlines
        )
        hello = self._memory.hello
        is_older = hello is not None and hello.version < wire.VERSION
        self._executor.send(for_version_3(message) if is_older else message)
