"""Mistakes with claims and locks."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import CLAIMED, COMPLETED, SUBMITTED, Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "Claims and locks": (
        Mistake("nothing to claim", "claim", "nothing to claim in queue 'default'", exits=1),
        Mistake(
            "claim from a queue misspelt",
            "claim --queue reviws",
            "nothing to claim in queue 'reviws'; did you mean 'reviews'?",
            before=("submit --queue reviews -- true",),
            exits=1,
        ),
        Mistake(
            "claim from a paused queue",
            "claim --queue ci",
            "queue ci is paused: upgrade; `dispatcher resume ci` ends that",
            before=("pause ci --reason upgrade",),
            exits=1,
        ),
        Mistake(
            "claim what has another owner",
            "claim --task 1",
            "task 1 is running: claimed; only a ready one can be claimed",
            before=CLAIMED,
            exits=1,
        ),
        Mistake(
            "claim what does not exist",
            "claim --task 42",
            "no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            "a task and a queue",
            "claim --task 1 --queue ci",
            "--task names a task of any queue; leave --queue out (see: dispatcher claim --help)",
        ),
        Mistake(
            "no lock",
            "heartbeat --task 1",
            "no lock for task 1, so nothing was written: give the lock that `claim` printed "
            "(--lock, --lock-file or $DISPATCHER_CLAIM_LOCK)",
            before=CLAIMED,
        ),
        Mistake(
            "no task",
            "heartbeat --lock-file lock.txt",
            "Missing option '--task' (env var: 'DISPATCHER_TASK_ID') (see: dispatcher heartbeat "
            "--help)",
            before=CLAIMED,
        ),
        Mistake(
            "a file for the lock that does not exist",
            "heartbeat --task 1 --lock-file lock.txt",
            "no lock: cannot read lock.txt: No such file or directory; name the file that `claim "
            "--lock-file` wrote",
            before=SUBMITTED,
        ),
        Mistake(
            "a wrong lock",
            "heartbeat --task 1 --lock 00000000000000000000000000000000",
            "not_owner: this is not the lock of the run, or the run is ending or out of time; "
            "another claim may own the task: stop working, record nothing, exit 79 (task 1: "
            "running, attempt 1)",
            before=CLAIMED,
            exits=79,
        ),
        Mistake(
            "a heartbeat after the task was cancelled",
            "heartbeat --task 1 --lock-file lock.txt",
            "not_running: the task is not running; another claim may own the task: stop working, "
            "record nothing, exit 79 (task 1: cancelled, attempt 1)",
            before=(*CLAIMED, "cancel 1"),
            exits=79,
        ),
        Mistake(
            "a heartbeat after a newer claim",
            "heartbeat --task 1 --lock-file lock.txt",
            "superseded: a newer run owns the task; another claim may own the task: stop "
            "working, record nothing, exit 79 (task 1: running, attempt 1)",
            before=(*CLAIMED, "hold 1", "release 1", "claim --lock-file other.txt"),
            exits=79,
        ),
        Mistake(
            "a heartbeat for no task",
            "heartbeat --task 42 --lock x",
            "unknown_task: there is no such task; stop working, exit 79 (task 42)",
            exits=79,
        ),
        Mistake(
            "another outcome after the first",
            "fail --task 1 --lock-file lock.txt --reason late",
            "already_declared: another outcome was declared before and holds; exit (task 1: "
            "succeeded, attempt 1)",
            before=COMPLETED,
            exits=1,
        ),
        Mistake(
            "progress beyond the end",
            "heartbeat --task 1 --lock-file lock.txt --progress 1.5",
            "Invalid value for '--progress': 1.5 is not in the range 0<=x<=1 (see: dispatcher "
            "heartbeat --help)",
            before=CLAIMED,
        ),
        Mistake(
            "a result that is not JSON",
            "complete --task 1 --lock-file lock.txt --result done",
            "--result: not JSON: invalid character (byte 0); write for example: '{\"rows\": 3}' "
            "(see: dispatcher complete --help)",
            before=CLAIMED,
        ),
        Mistake(
            "a result above its limit",
            "complete --task 1 --lock-file lock.txt --result '\"" + "x" * 40000 + "\"'",
            "result: 40002 bytes are more than 32768; write it to a file and name that (see: "
            "dispatcher complete --help)",
            before=CLAIMED,
        ),
    ),
}
