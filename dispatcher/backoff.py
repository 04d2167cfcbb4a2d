"""Delays that double with each failure in a row."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """A delay in seconds: none at first, then from `first` up to `longest`."""

    first: float
    longest: float
    delay: float = 0.0

    def grow(self) -> float:
        """Double the delay after a failure, and return it."""
        self.delay = min(self.longest, self.delay * 2 or self.first)
        return self.delay

    def reset(self) -> None:
        self.delay = 0.0
