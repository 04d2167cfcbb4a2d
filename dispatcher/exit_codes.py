"""The exit codes of the commands, and those that a worker gives a meaning."""

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of every command, and of workers (75, 78, 79); after sysexits.h."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    STORE_UNAVAILABLE = 69
    COMMIT_UNKNOWN = 74
    TEMPORARY = 75
    CONFIG = 78
    LEASE_LOST = 79
