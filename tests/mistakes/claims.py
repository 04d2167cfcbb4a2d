"""Mistakes with claims and locks."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "Claims and locks": (
        Mistake(
            name="nothing to claim",
            typed="claim",
            text="nothing to claim in queue 'default'",
            exits=1,
        ),
        Mistake(
            name="claim from a queue misspelt",
            typed="claim --queue reviws",
            before=("submit --queue reviews -- true",),
            text="nothing to claim in queue 'reviws'; did you mean 'reviews'?",
            exits=1,
        ),
        Mistake(
            name="claim from a paused queue",
            typed="claim --queue ci",
            before=("pause ci --reason upgrade",),
            text="queue ci is paused: upgrade; `dispatcher resume ci` ends that",
            exits=1,
        ),
        Mistake(
            name="claim what has another owner",
            typed="claim --task 1",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
            ),
            text="task 1 is running: claimed; only a ready one can be claimed",
            exits=1,
        ),
        Mistake(
            name="claim what does not exist",
            typed="claim --task 42",
            text="no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            name="a task and a queue",
            typed="claim --task 1 --queue ci",
            text=(
                "--task names a task of any queue; leave --queue out (see: dispatcher claim --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="no lock",
            typed="heartbeat --task 1",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
            ),
            text=(
                "no lock for task 1, so nothing was written: give the lock that `claim` "
                "printed (--lock, --lock-file or $DISPATCHER_CLAIM_LOCK)"
            ),
            exits=2,
        ),
        Mistake(
            name="no task",
            typed="heartbeat --lock-file lock.txt",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
            ),
            text=(
                "Missing option '--task' (env var: 'DISPATCHER_TASK_ID') (see: dispatcher "
                "heartbeat --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a file for the lock that does not exist",
            typed="heartbeat --task 1 --lock-file lock.txt",
            before=("submit -- true",),
            text=(
                "no lock: cannot read lock.txt: No such file or directory; name the file that "
                "`claim --lock-file` wrote"
            ),
            exits=2,
        ),
        Mistake(
            name="a wrong lock",
            typed="heartbeat --task 1 --lock 00000000000000000000000000000000",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
            ),
            text=(
                "not_owner: this is not the lock of the run, or the run is ending or out of time; "
                "another claim may own the task: stop working, record nothing, exit 79 (task 1: "
                "running, attempt 1)"
            ),
            exits=79,
        ),
        Mistake(
            name="a heartbeat after the task was cancelled",
            typed="heartbeat --task 1 --lock-file lock.txt",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "cancel 1",
            ),
            text=(
                "not_running: the task is not running; another claim may own the task: stop "
                "working, record nothing, exit 79 (task 1: cancelled, attempt 1)"
            ),
            exits=79,
        ),
        Mistake(
            name="a heartbeat for who has it now",
            typed="heartbeat --task 1 --lock-file lock.txt",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "hold 1",
                "release 1",
                "claim --lock-file other.txt",
            ),
            text=(
                "superseded: a newer run owns the task; another claim may own the task: stop "
                "working, record nothing, exit 79 (task 1: running, attempt 1)"
            ),
            exits=79,
        ),
        Mistake(
            name="a heartbeat for no task",
            typed="heartbeat --task 42 --lock x",
            text="unknown_task: there is no such task; stop working, exit 79 (task 42)",
            exits=79,
        ),
        Mistake(
            name="another word after the first",
            typed="fail --task 1 --lock-file lock.txt --reason late",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "complete --task 1 --lock-file lock.txt",
            ),
            text=(
                "already_declared: another outcome was declared before and holds; exit "
                "(task 1: succeeded, attempt 1)"
            ),
            exits=1,
        ),
        Mistake(
            name="progress beyond the end",
            typed="heartbeat --task 1 --lock-file lock.txt --progress 1.5",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
            ),
            text=(
                "Invalid value for '--progress': 1.5 is not in the range 0<=x<=1 (see: "
                "dispatcher heartbeat --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a result that is not JSON",
            typed="complete --task 1 --lock-file lock.txt --result done",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
            ),
            text=(
                "--result: not JSON: invalid character (byte 0); write for "
                "example: '{\"rows\": 3}' (see: dispatcher complete --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a result above its limit",
            typed="complete --task 1 --lock-file lock.txt --result '\"" + "x" * 40000 + "\"'",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
            ),
            text=(
                "result: 40002 bytes are more than 32768; write it to a file and name that "
                "(see: dispatcher complete --help)"
            ),
            exits=2,
        ),
    ),
}
