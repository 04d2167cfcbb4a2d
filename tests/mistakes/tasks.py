"""Mistakes with tasks and their states."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import CLAIMED, COMPLETED, SUBMITTED, Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "Tasks and their states": (
        Mistake(
            "a task that does not exist",
            "show 42",
            "no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            "logs of a task that does not exist",
            "logs 42",
            "no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            "a task id that is not a number",
            "show first",
            "Invalid value for 'ID...': 'first' is not a valid task id (see: dispatcher show "
            "--help)",
        ),
        Mistake(
            "logs of a task that has not run",
            "logs 1",
            "task 1 has not run yet: ready, submitted; `dispatcher why 1` shows what it waits for",
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "a run that does not exist",
            "logs 1 --run 7",
            "task 1 has no run 7; its runs: 1",
            before=COMPLETED,
            exits=1,
        ),
        Mistake(
            "logs of a local claim",
            "logs 1",
            "run 1 is a local claim; its output was not captured",
            before=COMPLETED,
            exits=1,
        ),
        Mistake(
            "cancel what has succeeded",
            "cancel 1",
            "task 1 has succeeded already; there is nothing to cancel",
            before=COMPLETED,
            exits=1,
        ),
        Mistake(
            "cancel one that does not exist",
            "cancel 42",
            "no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            "hold what has failed",
            "hold 1",
            "task 1 has failed already; there is nothing to hold",
            before=(*CLAIMED, "fail --task 1 --lock-file lock.txt --reason broken --no-retry"),
            exits=1,
        ),
        Mistake(
            "release what is not held",
            "release 1",
            "task 1 is ready; only held and waiting ones can be released",
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "retry what is ready",
            "retry 1",
            "task 1 is ready; only failed, cancelled and held ones can be retried",
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "no task to cancel",
            "cancel",
            "Missing argument 'ID...': name tasks by ids, ranges (12-40) or filters, e.g. "
            "--queue NAME (see: dispatcher cancel --help)",
        ),
        Mistake(
            "a range from its end",
            "cancel 40-12",
            "Invalid value for 'ID...': '40-12' runs backwards; write 12-40 (see: dispatcher "
            "cancel --help)",
        ),
        Mistake(
            "cancel what has succeeded, by state",
            "cancel --state succeeded",
            "Invalid value for '--state': 'succeeded' is not one of 'waiting', 'scheduled', "
            "'ready', 'running', 'held' (see: dispatcher cancel --help)",
        ),
        Mistake(
            "delete what has not finished",
            "prune 1",
            "task 1 is ready; only finished tasks can be deleted",
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "wait for one that does not exist",
            "wait 42",
            "no task 42; `dispatcher list` shows those there are",
            exits=1,
        ),
        Mistake(
            "wait longer than the time-out",
            "wait 1 --timeout 0s",
            "no daemon runs here; it waits: dispatcher run --detach\ntask 1 is not done after 0s",
            before=SUBMITTED,
            exits=75,
        ),
        Mistake(
            "edit without a change",
            "edit 1",
            "nothing to change; give an option like --priority 5, or a command (see: dispatcher "
            "edit --help)",
            before=SUBMITTED,
        ),
        Mistake(
            "edit what runs",
            "edit 1 --priority 5",
            "task 1 is running, and keeps what it began with; `dispatcher hold 1` ends its run "
            "first",
            before=CLAIMED,
            exits=1,
        ),
        Mistake(
            "edit what has succeeded",
            "edit 1 --priority 5",
            "task 1 has succeeded; submit another one",
            before=COMPLETED,
            exits=1,
        ),
        Mistake(
            "a command for two tasks",
            "edit 1 2 -- true",
            "a command is of one task: name one id before the -- (see: dispatcher edit --help)",
        ),
        Mistake(
            "a command for the task of a profile",
            "edit 1 -- true",
            "task 1: command: profile 'report' brings its own; cancel the task, and submit another",
            config='[profiles.report]\ncommand = ["report"]\n',
            before=("submit --profile report",),
            exits=1,
        ),
        Mistake(
            "a queue in which the key is in use",
            "edit 2 --queue ci",
            "task 2: queue: a task with the key 'k' is in 'ci' already; leave this one in its "
            "queue, or cancel it",
            before=("submit --queue ci --key k -- true", "submit --key k -- true"),
            exits=1,
        ),
        Mistake(
            "fewer attempts than are used",
            "edit 1 --max-attempts 1",
            "task 1: max_attempts: 1 of them are used already; give 2 or more, or cancel the task",
            before=(*CLAIMED, "fail --task 1 --lock-file lock.txt --reason broken"),
            exits=1,
        ),
        Mistake(
            "a delay for what is held",
            "edit 1 --delay 2h",
            "task 1: delay: a held task does not start; `dispatcher release 1` makes it ready",
            before=(*SUBMITTED, "hold 1"),
            exits=1,
        ),
        Mistake(
            "a total time-out that is over before the delay",
            "edit 1 --total-timeout 5m",
            "task 1: total_timeout: 5m from its submit are over before its delay; give more than "
            "1h, or a shorter delay",
            before=("submit --delay 1h -- true",),
            exits=1,
        ),
        Mistake(
            "a state that does not exist",
            "list --state done",
            "Invalid value for '--state': 'done' is not one of 'waiting', 'scheduled', 'ready', "
            "'running', 'held', 'succeeded', 'failed', 'cancelled' (see: dispatcher list --help)",
        ),
        Mistake(
            "a label filter without a value",
            "list --label team",
            "label: 'team' has no value; write team=VALUE",
        ),
        Mistake(
            "a time in another form",
            "list --since yesterday",
            "Invalid value for '--since': 'yesterday' is not a time; write how long ago, e.g. "
            '"2h", or a date, e.g. "2026-08-01T06:00" (see: dispatcher list --help)',
        ),
        Mistake(
            "a word too many",
            "status now",
            "Got unexpected extra argument (now) (see: dispatcher status --help)",
        ),
        Mistake(
            "pause without a queue",
            "pause",
            "Missing argument 'QUEUE...': name queues, or give --all (see: dispatcher pause "
            "--help)",
        ),
        Mistake(
            "pause a queue by an invalid name",
            "pause 'my queue'",
            "queue: 'my queue' is not a name; use up to 100 letters, digits and _ . : / @ + -",
        ),
    ),
}
