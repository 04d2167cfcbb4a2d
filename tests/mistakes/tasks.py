"""Mistakes with tasks and their states."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "Tasks and their states": (
        Mistake(
            name="a task that does not exist",
            typed="show 42",
            text="no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            name="logs of a task that does not exist",
            typed="logs 42",
            text="no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            name="no number of a task",
            typed="show first",
            text=(
                "Invalid value for 'ID...': 'first' is not a valid task id (see: dispatcher show "
                "--help)"
            ),
            exits=2,
        ),
        Mistake(
            name="logs of a task that has not run",
            typed="logs 1",
            before=("submit -- true",),
            text=(
                "task 1 has not run yet: ready, submitted; `dispatcher why 1` shows what it "
                "waits for"
            ),
            exits=1,
        ),
        Mistake(
            name="a run that does not exist",
            typed="logs 1 --run 7",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "complete --task 1 --lock-file lock.txt",
            ),
            text="task 1 has no run 7; its runs: 1",
            exits=1,
        ),
        Mistake(
            name="logs of a local claim",
            typed="logs 1",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "complete --task 1 --lock-file lock.txt",
            ),
            text="run 1 is a local claim; its output was not captured",
            exits=1,
        ),
        Mistake(
            name="cancel what has succeeded",
            typed="cancel 1",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "complete --task 1 --lock-file lock.txt",
            ),
            text="task 1 has succeeded already; there is nothing to cancel",
            exits=1,
        ),
        Mistake(
            name="cancel one that does not exist",
            typed="cancel 42",
            text="no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            name="hold what has failed",
            typed="hold 1",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "fail --task 1 --lock-file lock.txt --reason broken --no-retry",
            ),
            text="task 1 has failed already; there is nothing to hold",
            exits=1,
        ),
        Mistake(
            name="release what is not held",
            typed="release 1",
            before=("submit -- true",),
            text="task 1 is ready; only held ones can be released",
            exits=1,
        ),
        Mistake(
            name="retry what is ready",
            typed="retry 1",
            before=("submit -- true",),
            text="task 1 is ready; only failed, cancelled and held ones can be retried",
            exits=1,
        ),
        Mistake(
            name="no task to cancel",
            typed="cancel",
            text=(
                "Missing argument 'ID...': name tasks by ids, ranges (12-40) or filters, e.g. "
                "--queue NAME (see: dispatcher cancel --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a range from its end",
            typed="cancel 40-12",
            text=(
                "Invalid value for 'ID...': '40-12' runs backwards; write 12-40 "
                "(see: dispatcher cancel --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="cancel what has succeeded, by state",
            typed="cancel --state succeeded",
            text=(
                "Invalid value for '--state': 'succeeded' is not one of 'scheduled', 'ready', "
                "'running', 'held' (see: dispatcher cancel --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="delete what has not finished",
            typed="prune 1",
            before=("submit -- true",),
            text="task 1 is ready; only finished tasks can be deleted",
            exits=1,
        ),
        Mistake(
            name="wait for one that does not exist",
            typed="wait 42",
            text="no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            name="wait longer than the time-out",
            typed="wait 1 --timeout 0s",
            before=("submit -- true",),
            text=(
                "no daemon runs here; it waits: dispatcher run --detach\n"
                "task 1 is not done after 0s"
            ),
            exits=75,
        ),
        Mistake(
            name="edit without a change",
            typed="edit 1",
            before=("submit -- true",),
            text=(
                "nothing to change; give an option like --priority 5, or a command (see: "
                "dispatcher edit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="edit what runs",
            typed="edit 1 --priority 5",
            before=("submit -- true", "claim --lock-file lock.txt"),
            text=(
                "task 1 is running, and keeps what it began with; `dispatcher hold 1` ends its "
                "run first"
            ),
            exits=1,
        ),
        Mistake(
            name="edit what has succeeded",
            typed="edit 1 --priority 5",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "complete --task 1 --lock-file lock.txt",
            ),
            text="task 1 has succeeded; submit another one",
            exits=1,
        ),
        Mistake(
            name="a command for two tasks",
            typed="edit 1 2 -- true",
            text=(
                "a command is of one task: name one id before the -- (see: dispatcher edit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a command for the task of a profile",
            typed="edit 1 -- true",
            config='[profiles.report]\ncommand = ["report"]\n',
            before=("submit --profile report",),
            text=(
                "task 1: command: profile 'report' brings its own; cancel the task, and submit "
                "another"
            ),
            exits=1,
        ),
        Mistake(
            name="a queue in which the key is in use",
            typed="edit 2 --queue ci",
            before=("submit --queue ci --key k -- true", "submit --key k -- true"),
            text=(
                "task 2: queue: a task with the key 'k' is in 'ci' already; leave this one in its "
                "queue, or cancel it"
            ),
            exits=1,
        ),
        Mistake(
            name="fewer attempts than are used",
            typed="edit 1 --max-attempts 1",
            before=(
                "submit -- true",
                "claim --lock-file lock.txt",
                "fail --task 1 --lock-file lock.txt --reason broken",
            ),
            text=(
                "task 1: max_attempts: 1 of them are used already; give 2 or more, or cancel the "
                "task"
            ),
            exits=1,
        ),
        Mistake(
            name="a delay for what is held",
            typed="edit 1 --delay 2h",
            before=("submit -- true", "hold 1"),
            text=(
                "task 1: delay: a held task does not start; `dispatcher release 1` makes it ready"
            ),
            exits=1,
        ),
        Mistake(
            name="a total time-out that is over before the delay",
            typed="edit 1 --total-timeout 5m",
            before=("submit --delay 1h -- true",),
            text=(
                "task 1: total_timeout: 5m from its submit are over before its delay; give more "
                "than 1h, or a shorter delay"
            ),
            exits=1,
        ),
        Mistake(
            name="a state that does not exist",
            typed="list --state done",
            text=(
                "Invalid value for '--state': 'done' is not one of 'scheduled', "
                "'ready', 'running', 'held', 'succeeded', 'failed', 'cancelled' (see: "
                "dispatcher list --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a label filter without a value",
            typed="list --label team",
            text="label: 'team' has no value; write team=VALUE",
            exits=2,
        ),
        Mistake(
            name="a time in other words",
            typed="list --since yesterday",
            text=(
                "Invalid value for '--since': 'yesterday' is not a time; write how long ago, e.g. "
                '"2h", or a date, e.g. "2026-08-01T06:00" (see: dispatcher list --help)'
            ),
            exits=2,
        ),
        Mistake(
            name="a word too many",
            typed="status now",
            text="Got unexpected extra argument (now) (see: dispatcher status --help)",
            exits=2,
        ),
        Mistake(
            name="pause without a queue",
            typed="pause",
            text=(
                "Missing argument 'QUEUE...': name queues, or give --all (see: dispatcher pause "
                "--help)"
            ),
            exits=2,
        ),
        Mistake(
            name="pause a queue by an invalid name",
            typed="pause 'my queue'",
            text="queue: 'my queue' is not a name; use up to 100 letters, digits and _ . : / @ + -",
            exits=2,
        ),
    ),
}
