"""The environment of a submitter's shell, which its tasks get. No message shows a value of it."""

from binascii import crc32
from collections.abc import Mapping
from typing import Self, final

import msgspec

from dispatcher import worker_api
from dispatcher.errors import InvalidTask

#: Variables of the submitting process alone. `TERM` is not one: scripts that call `tput` fail
#: without it.
_OF_THE_SHELL = frozenset({"_", "OLDPWD", "PWD", "SHLVL"})
_OF_THE_TERMINAL = frozenset({"COLUMNS", "GPG_TTY", "LINES", "SSH_TTY", "WINDOWID"})

#: What systemd sets for the processes of one unit, or one start of it: systemd.exec(5).
_OF_THE_UNIT = frozenset(
    {
        *("CACHE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY", "INVOCATION_ID"),
        *("JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID"),
        *("LOGS_DIRECTORY", "MAINPID", "MAINPIDFDID", "MANAGERPID", "MANAGERPIDFDID"),
        *("MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "NOTIFY_SOCKET", "PIDFILE"),
        *("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "SYSTEMD_EXEC_PID", "WATCHDOG_PID"),
        "WATCHDOG_USEC",
    }
)
_LEFT_OUT = _OF_THE_SHELL | _OF_THE_TERMINAL | _OF_THE_UNIT

#: The dispatcher sets its own for each run; those of the submitter name another one.
_OUR_PREFIX = "DISPATCHER_"


@final
class Environment:
    """Variables without those that belong to the submitting process alone; it never changes.

    Secrets of a profile are left out too, where one of its runs submits: they are never stored.
    The text names those that a clean task inherits from the executor, which gives its own then.

    Equal ones have equal texts, and are stored once. It is not a dataclass, so that bulk submits
    can encode it as a number.
    """

    __slots__ = ("inherits", "size", "text", "variables")

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Take over variables, such as `os.environ`. Raises `InvalidTask`, which shows no value."""
        secrets = variables.get(worker_api.SECRETS, "").split()
        self.variables: Mapping[str, str] = {
            name: value
            for name, value in variables.items()
            if not _is_left_out(name) and name not in secrets
        }
        for name, value in self.variables.items():
            _check(name, value)
        gaps = " ".join(sorted(name for name in secrets if worker_api.is_inherited(name)))
        self.inherits = bool(gaps)
        """Whether a task gets the executor's PATH, HOME and the like in place of secrets."""
        stored = {**self.variables, worker_api.SECRETS: gaps} if gaps else self.variables
        encoded = msgspec.json.encode(stored, order="sorted")
        self.text = encoded.decode()
        self.size = len(encoded)
        """Bytes of the text."""

    @classmethod
    def from_json(cls, text: str | msgspec.Raw) -> Self:
        """Return a stored environment. Raises errors of `complaints.UNREADABLE`, and TypeError."""
        variables = msgspec.json.decode(text, type=dict[str, str])
        try:
            return cls(variables)
        except InvalidTask:
            raise msgspec.ValidationError("has a variable that no process can be given") from None

    @property
    def names(self) -> list[str]:
        return sorted(self.variables)

    @property
    def checksum(self) -> int:
        """CRC-32 of the text; others may have the same. `hashlib` would take 5 ms to import."""
        return crc32(self.text.encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Environment) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Environment({len(self.variables)} variables)"


def is_utf8(name: str, value: str) -> bool:
    """Return whether a variable of `os.environ` can be stored."""
    try:
        return bool((name + value).encode())
    except UnicodeEncodeError:
        return False


def _is_left_out(name: str) -> bool:
    return name in _LEFT_OUT or str(name).startswith(_OUR_PREFIX)


def _check(name: object, value: object) -> None:
    if not (isinstance(name, str) and isinstance(value, str)):
        raise InvalidTask("environment: its names and values must be texts")
    if not name or "=" in name or "\0" in name + value:
        shown = name[:80].replace("\0", "")
        raise InvalidTask(f"environment: {shown!r} cannot be given to a process; leave it out")
    if not is_utf8(name, value):
        shown = name[:80].encode(errors="backslashreplace").decode()
        raise InvalidTask(f"environment: {shown} is not UTF-8; leave it out")
