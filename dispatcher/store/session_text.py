"""SQL with which transactions on a server begin and end, as its protocol takes it."""

from typing import Final

BEGIN_WRITE: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
BEGIN_READ: Final = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# The server's clock and timeline, and which table `meta` is: another one after a restore over a
# store in use. In a snapshot this is also the statement whose moment it shows. A standby has no
# timeline to read.
_CLOCK: Final = b"SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT), "
_META: Final = b", CAST(to_regclass('meta') AS oid)"
CLOCK_WRITE: Final = _CLOCK + b"left(pg_walfile_name(pg_current_wal_lsn()), 8)" + _META
CLOCK_READ: Final = _CLOCK + b"NULL" + _META

#: Lets the commit wait neither for the disk nor for a standby.
FORGET: Final = b"SET LOCAL synchronous_commit = off"

# Whatever its COMMIT waits for, now or next. No time-out of the server ends a wait for a standby,
# and the server does not notice there that the session was given up. A session that is cancelled
# between two waits would begin the second one.
END_GIVEN_UP: Final = b"""
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND application_name = current_setting('application_name')
"""

#: Lets one process at a time change the tables.
LOCK_SCHEMA: Final = b"SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"

#: Seconds that a change of tables waits for a lock while others wait behind it, and that it may
#: take in all.
_CHANGE_LOCKS: Final = 2
CHANGE_TAKES: Final = 3600
FOR_CHANGES: Final = (
    b"SET LOCAL lock_timeout = '%ds'" % _CHANGE_LOCKS,
    b"SET LOCAL statement_timeout = 0",
    b"SET LOCAL idle_in_transaction_session_timeout = 0",
)
