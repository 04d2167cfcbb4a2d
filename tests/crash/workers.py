"""Commands of the tasks in these tests: each records in its task's diary when it lived."""

from dataclasses import dataclass
from pathlib import Path

# Descriptor 9 is the diary. The lock on it is inherited by the whole tree of a run: if it is
# taken (1; a sweep may kill flock before its shell), a process of an earlier run is still there.
# The diary is appended to, line by line.
_BEGIN = """
exec 9>>"$0"
flock -n 9; [ $? -ne 1 ] || echo "twin $DISPATCHER_FENCE" >&9
echo "start $DISPATCHER_FENCE" >&9
"""
_END = """
echo "end $DISPATCHER_FENCE" >&9
exit $code
"""

#: Bodies of scripts, which set the exit code.
EXITS_0 = "code=0"
EXITS_7 = "code=7"
EXITS_7_AT_FIRST = "code=0; [ $DISPATCHER_ATTEMPT -gt 1 ] || code=7"
DEFERS_AT_FIRST = 'code=75; case "$DISPATCHER_LAST_OUTCOME" in deferred) code=0;; esac'
ESCAPES = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & code=0"
STAYS = "exec sleep 1000"
WAITS = 'until [ -e "$1" ]; do sleep 0.01; done; code=0'
SHOWS_ITS_LOCK = 'echo $DISPATCHER_CLAIM_LOCK >"$1.new"; mv "$1.new" "$1"; exec sleep 1000'
STAYS_UNTIL_ALLOWED = '[ -e "$1" ] || exec sleep 1000; code=0'


@dataclass(frozen=True)
class Diary:
    """The records of one task's runs."""

    path: Path

    def command(self, body: str, *arguments: str) -> tuple[str, ...]:
        """Return the command that does this and keeps the diary."""
        return ("sh", "-c", f"{_BEGIN}{body}{_END}", str(self.path), *arguments)

    def lines(self) -> list[tuple[str, int]]:
        """Return word and fence of every entry, oldest first."""
        if not self.path.exists():
            return []
        entries = [line.split() for line in self.path.read_text("ascii").splitlines()]
        return [(word, int(fence)) for word, fence in entries]

    def started(self) -> list[int]:
        """Return the fences of the runs that began to work."""
        return [fence for word, fence in self.lines() if word == "start"]
