"""The rows of the table of mistakes.

Messages are written as on an installed host: the configuration is /etc/dispatcher/dispatcher.toml,
the state directory /var/lib/dispatcher, the runtime directory /run/dispatcher, the directory that a
command is typed in /home/me, every process has the pid 4711, and every UUID is 00000000-….
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

#: Command lines before a mistake with task 1: it is ready, claimed, or has succeeded.
SUBMITTED = ("submit -- true",)
CLAIMED = (*SUBMITTED, "claim --lock-file lock.txt")
COMPLETED = (*CLAIMED, "complete --task 1 --lock-file lock.txt")


@dataclass(frozen=True)
class Mistake:
    """One mistake, how it is made, and the message."""

    name: str
    """What was done, in words; unique."""
    typed: str
    """The words after `dispatcher`, as a shell splits them."""
    text: str
    """The lines on stderr, each without the `dispatcher: ` that begins it."""
    _: KW_ONLY
    config: str = ""
    """The configuration file."""
    before: Sequence[str] = ()
    """Command lines that succeed before it."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The contents of files in the present directory."""
    stdin: bytes = b""
    scene: str = ""
    """The surroundings that no command line makes: a function of tests/e2e/mistaken.py."""
    exits: int = 2


@dataclass(frozen=True)
class CannotStart:
    """A task that is accepted, and whose command then cannot be started."""

    name: str
    submitted: str
    """The words after `dispatcher submit`."""
    text: str
    """The reason of the run, as `show` and `why` print it."""
