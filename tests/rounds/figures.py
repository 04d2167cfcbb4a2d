"""The sum of many rounds, in one line."""

from dataclasses import dataclass, field
from statistics import median

from tests.rounds.judges import Verdict
from tests.rounds.round import Seen


@dataclass
class Figures:
    """Counted over rounds."""

    rounds: int = 0
    failed: int = 0
    runs: int = 0
    kills: int = 0
    stops: int = 0
    overlaps: int = 0
    wrong_codes: int = 0
    left: int = 0
    others: int = 0
    until_normal: list[float] = field(default_factory=list)

    def count(self, seen: Seen, verdict: Verdict) -> None:
        self.rounds += 1
        self.failed += bool(verdict.complaints)
        self.runs += len(seen.runs)
        self.kills += seen.kills
        self.stops += seen.stops
        self.overlaps += len(verdict.overlaps)
        self.wrong_codes += len(verdict.wrong_codes)
        self.left += len(verdict.left)
        self.others += len(verdict.others)
        self.until_normal += seen.until_normal

    def __str__(self) -> str:
        took = self.until_normal or [0.0]
        return (
            f"{self.rounds} rounds, {self.failed} failed | {self.runs} runs | {self.kills} kills |"
            f" {self.stops} stops | {self.overlaps} overlaps | {self.wrong_codes} wrong codes |"
            f" {self.left} left behind | {self.others} other complaints |"
            f" normal again after {median(took):.2f} s, at most {max(took):.2f} s"
        )
