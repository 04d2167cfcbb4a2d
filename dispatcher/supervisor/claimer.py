"""Which tasks become ready and are claimed next, and their start."""

from collections.abc import Collection, Iterator
from functools import partial

import structlog

from dispatcher import wire
from dispatcher.execution import Claim, Claims
from dispatcher.executor_api import for_version_3, start_message
from dispatcher.supervisor.live_runs import LiveRun
from dispatcher.supervisor.rounds import Rounds
from dispatcher.supervisor.settler import Settler
from dispatcher.supervisor.shares import NOBODY, LastTurn, Sharing
from dispatcher.supervisor.turn import Shared, Turn
from dispatcher.times import NEVER, Alarm, Instant, StoreTime

log = structlog.get_logger()

#: Tasks claimed in one transaction. Bounds how long a worker waits for its answer.
CLAIM_BATCH = 200


#: Scheduled tasks moved to ready in one transaction. Bounds how long a worker waits for its answer.
DUE_BATCH = 500

#: Ended dependencies in one transaction, likewise.
RESOLVE_BATCH = 500

#: Tasks whose concurrency keys are given to the next ones in one transaction, likewise.
KEYS_BATCH = 200

#: Seconds until tasks are claimed again from a queue with whose limit another node was claiming: at
#: most, of which the upper half is drawn by lot.
LIMIT_RETRY = 0.05


class Claimer:
    """Claims as many tasks as there are free slots, from each queue in turn."""

    def __init__(self, shared: Shared, settler: Settler) -> None:
        self._store, self._executor, self._memory = shared.store, shared.executor, shared.memory
        self._settler, self._rng = settler, shared.rng
        self._last_turn = NOBODY
        self._none_ready = False
        """Whether the last search found no queue, and nothing was written since."""
        self._prepared: set[str] = set()
        """Queues whose limits on all nodes the store has."""
        self._rounds = Rounds()
        self.scheduled = Alarm(NEVER)
        """For the scheduled task that is due next."""
        self.retry = Alarm(NEVER)
        """For a limit that was locked, or that has no room until then."""

    def move_due(self, turn: Turn) -> None:
        """Move tasks to ready that are due, or whose parents have finished."""
        if not (turn.looks or self._store.announces or self.scheduled.is_due(turn.at)):
            return
        turn.again |= self._store.resolve(limit=RESOLVE_BATCH, now=turn.now)
        moved = self._store.move_due(limit=DUE_BATCH, now=turn.now)
        turn.again |= moved == DUE_BATCH
        due, keys = self._store.next_due_or_keys()
        next_at = turn.instant_of(due)
        if keys:
            given = self._store.give_keys(limit=KEYS_BATCH)
            turn.again |= given.more
            if given.busy:
                next_at = min(next_at, Instant(turn.at + LIMIT_RETRY))
        turn.after(partial(self.scheduled.set, next_at))

    def fill_slots(self, turn: Turn) -> None:
        """Claim for every free slot, as far as the host can bear it."""
        memory = self._memory
        if turn.looks or self._store.announces:
            turn.after(partial(self._remember_ready, may_be=True))
            self._rounds.begin_anew()
        elif self._none_ready:
            return
        if memory.stopping.how is not None or not memory.is_served_by(self._executor):
            return
        if memory.hello is None or memory.surplus or turn.claims_blocked:
            return
        held = memory.live.count(but=turn.closed)
        room = memory.pause.room(living=memory.live.living, at=turn.at)
        limit = min(memory.settings.slots, room)
        unusable, unfit = memory.settings.start.unusable, []
        for claim in self._claims(turn, min(CLAIM_BATCH, int(limit) - held)):
            turn.after(partial(self._remember_claimed, claim, turn.at))
            if (why := unusable.get(claim.profile or "")) is None:
                turn.after(partial(self._start, claim, memory.hello.epoch, turn.now, turn.at))
            else:
                mended = f"dispatcher reload, then dispatcher release {claim.task_id}"
                why = f"its profile cannot be used: {why}; once that is mended: {mended}"
                unfit.append((claim, why))
        self._settler.hold(turn, unfit)
        turn.again |= bool(unfit)  # their slots are free

    def _claims(self, turn: Turn, free: int) -> Iterator[Claim]:
        """Share the free slots among the queues with ready tasks, which take turns."""
        if free <= 0:
            return
        self._prepare_limits(turn)
        room, rounds = self._room(turn), self._rounds.copy()
        sharing = Sharing(free, self._memory.settings.weights, self._last_turn)
        passed = {queue for queue, left in room.items() if left <= 0}
        queues = self._next_queues(sharing, passed)
        if not queues:
            turn.after(partial(self._remember_turn, sharing.last_turn))
            turn.after(partial(self._remember_ready, may_be=bool(passed)))
        while queues and sharing.free:
            unexhausted, gave_nothing = [], False
            for position, queue in enumerate(queues):
                if not sharing.free:
                    break
                fair = sharing.share(queues[position:])
                share = min(fair, room.get(queue, fair))
                claims = self._claim(turn, queue, share, rounds)
                sharing.claimed(queue, fair, len(claims))
                turn.after(partial(self._remember_turn, sharing.last_turn))
                if claims.again:
                    turn.again = True
                    return
                if queue in room:
                    room[queue] -= len(claims)
                if len(claims) == share and room.get(queue, 1) > 0:
                    unexhausted.append(queue)
                else:
                    passed.add(queue)
                    gave_nothing |= not claims
                yield from claims
            queues = unexhausted
            if gave_nothing and not queues:
                queues = self._next_queues(sharing, passed)

    def _try_again(self, turn: Turn, claims: Claims) -> None:
        """Claim again after a moment, or when a limit may have more room."""
        again = NEVER if claims.opens_at is None else turn.instant_of(claims.opens_at)
        if claims.busy:
            delay = self._rng.uniform(LIMIT_RETRY / 2, LIMIT_RETRY)
            again = min(again, Instant(turn.at + delay))
        if again < NEVER:
            turn.after(partial(self._remember_retry, again, turn.at))

    def _remember_retry(self, again: Instant, at: Instant) -> None:
        if again < self.retry.at or self.retry.is_due(at):
            self.retry.set(again)

    def _next_queues(self, sharing: Sharing, passed: Collection[str]) -> list[str]:
        """Return as many queues as there are free slots, without those that are passed over.

        They are full, or have ready tasks of which this node may claim none, and must not hide
        others behind them: so that many more are read. A queue goes on with its turn.
        """
        settings, limit = self._memory.settings, sharing.free + len(passed)
        last = sharing.last_turn.queue
        found = self._store.ready_queues(
            after=last, limit=limit, node=settings.node_id, session=settings.session_uid
        )
        if sharing.last_turn.left:
            if len(found) == limit or last in found:
                found = [last, *(queue for queue in found if queue != last)]
            else:
                sharing.last_turn = LastTurn(last)
        return [queue for queue in found if queue not in passed][: sharing.free]

    def _prepare_limits(self, turn: Turn) -> None:
        """Add the limits that claims share with other nodes: once, and before the first claim."""
        limited = self._memory.settings.limits.keys()
        if limited - self._prepared:
            self._store.add_limits(sorted(limited))
            turn.after(partial(self._prepared.update, limited))

    def _room(self, turn: Turn) -> dict[str, int]:
        """Return how many more tasks of each limited queue may run on this node."""
        limits = self._memory.settings.concurrency
        running = self._memory.live.in_queues(limits, but=turn.closed)
        return {queue: limit - running[queue] for queue, limit in limits.items()}

    def full_queues(self) -> dict[str, int]:
        """Return the queues that have reached their limit here, with the limit."""
        limits = self._memory.settings.concurrency
        running = self._memory.live.in_queues(limits)
        return {queue: limit for queue, limit in limits.items() if running[queue] >= limit}

    def _claim(self, turn: Turn, queue: str, limit: int, rounds: Rounds) -> Claims:
        settings = self._memory.settings
        after = rounds.after(queue)
        claims = self._store.claim(
            queue,
            limit=limit,
            node=settings.node_id,
            session=settings.session_uid,
            labels=settings.labels,
            limits=settings.limits,
            lane=after,
            output_dir=settings.output_dir,
            until=settings.takeover_at(turn.now),
            now=turn.now,
        )
        if after or claims.lane is not None:
            turn.again |= rounds.goes_on(queue, claims.lane, is_enough=len(claims) == limit)
            turn.after(partial(self._remember_rounds, rounds))
        self._try_again(turn, claims)
        return claims

    def _remember_ready(self, *, may_be: bool) -> None:
        self._none_ready = not may_be

    def _remember_rounds(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def _remember_turn(self, last_turn: LastTurn) -> None:
        self._last_turn = last_turn

    def _remember_claimed(self, claim: Claim, at: Instant) -> None:
        live = LiveRun.of(claim)
        self._memory.live.add(live)
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
