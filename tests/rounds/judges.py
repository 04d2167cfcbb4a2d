"""Checks after every round. Each judge yields the faults, in words."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.rounds.round import OVER, Seen

_OUTCOMES = {0: "succeeded", 3: "failed", 75: "deferred"}

#: How a run ends that we end; who ignores SIGTERM may exit by itself meanwhile.
_ENDED_BY_US = {"lost", "timed_out", "orphaned"}

#: Milliseconds before its lease expires within which a worker that ends may be lost all the same:
#: between its last word and its exit the host may give it no time.
_ENDS_LATE = 250

#: With this the SDK exits, in the middle of whatever it was, when a beat is refused.
_REFUSED = 79


@dataclass
class Verdict:
    """The faults of a round; empty if it was right."""

    overlaps: list[str] = field(default_factory=list)
    wrong_codes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def complaints(self) -> list[str]:
        return [*self.overlaps, *self.wrong_codes, *self.left, *self.others]


def judge(seen: Seen) -> Verdict:
    return Verdict([*overlaps(seen)], [*wrong_codes(seen)], [*seen.left], [*others(seen)])


def overlaps(seen: Seen) -> Iterator[str]:
    """Yield tasks of which two trees lived at one instant."""
    first: dict[tuple[int, int], float] = {}
    last: dict[tuple[int, int], float] = {}
    births = [(int(w[0]), int(w[1]), float(w[-1])) for w in seen.files["births"]]
    stamps = [(int(w[0]), int(w[1]), float(w[-1])) for w in seen.files["stamps"]]
    for task, fence, at in (*births, *stamps):
        run = (task, fence)
        first[run] = min(at, first.get(run, at))
        last[run] = max(at, last.get(run, at))
    for (task, fence), end in last.items():
        for (other, later), begin in first.items():
            if other == task and fence < later and begin <= end:
                yield f"task {task}: run {fence} lived {end - begin:.3f} s with run {later}"
    for task, fence, pid in seen.files["twins"]:
        yield f"task {task}: run {fence} began while {pid} of an earlier one lived"


def wrong_codes(seen: Seen) -> Iterator[str]:
    """Yield runs of which something else is known than what their leader exited with."""
    ends = {(int(w[0]), int(w[1])): [*map(float, w[2:])] for w in seen.files["ends"]}
    for task, fence, outcome, code, signum, claimed_at, ended_at, expires_at in seen.runs:
        known = f"task {task}, run {fence}: {outcome}, code {code}, signal {signum}"
        if (task, fence) not in ends:
            if code not in {None, _REFUSED}:
                yield f"{known}; it did not exit by itself"
            continue
        pid, ticks, real, deaf, at = ends[task, fence]
        if code not in {None, real, _REFUSED}:
            yield f"{known}; it exited with {real:.0f}"
        may_be_ended = deaf and outcome in _ENDED_BY_US
        may_be_lost = outcome == "lost" and seen.began_at + 1000 * at + _ENDS_LATE > expires_at
        may_be_killed = (pid, ticks) in seen.workers_killed
        if may_be_ended or may_be_lost or may_be_killed:
            continue
        if any(claimed_at <= death <= (ended_at or death) for death in seen.executors_killed):
            continue
        if (code, outcome) != (real, _OUTCOMES[real]):
            yield f"{known}; it exited with {real:.0f}, and its executor lived"


def others(seen: Seen) -> Iterator[str]:
    """Yield what else is wrong: fences, states, reasons, the database."""
    fences: dict[int, list[int]] = defaultdict(list)
    for task, fence, outcome, *_ in seen.runs:
        fences[task].append(fence)
        if outcome is None:
            yield f"task {task}: run {fence} is open"
    for task, found in fences.items():
        if found != list(range(1, len(found) + 1)):
            yield f"task {task}: fences {found}"
    for task, state, reason in seen.tasks:
        if state not in OVER or not reason:
            yield f"task {task} is {state}: {reason}"
    begun = [(int(w[0]), int(w[1])) for w in seen.files["births"] if w[2] == "leader"]
    for run in {run for run in begun if begun.count(run) > 1}:
        yield f"task {run[0]}: run {run[1]} was started twice"
    if seen.integrity != "ok":
        yield f"the database: {seen.integrity}"
