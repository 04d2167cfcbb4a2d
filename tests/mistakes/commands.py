"""Commands that are accepted and cannot be started."""

from collections.abc import Sequence

from tests.mistakes.kinds import CannotStart

CANNOT_START: Sequence[CannotStart] = (
    CannotStart(
        "a program that is not installed",
        "-- no-such-program",
        "no such program: 'no-such-program' (not in the PATH of its submitter or profile)",
    ),
    CannotStart(
        "a script that is not there", "-- ./nowhere.sh", "no such program: /home/me/nowhere.sh"
    ),
    CannotStart(
        "a script that is not executable", "-- ./plain.sh", "not executable: /home/me/plain.sh"
    ),
    CannotStart(
        "a script whose interpreter is not installed",
        "-- ./strange.sh",
        "missing interpreter: /home/me/strange.sh needs /opt/strange/bin/run, which does not exist",
    ),
    CannotStart(
        "a script with line ends of Windows",
        "-- ./windows.sh",
        "its first line ends with a carriage return: /home/me/windows.sh needs '/bin/sh\\r'; "
        "save it with line ends of Unix, for example: sed -i 's/\\r$//' /home/me/windows.sh",
    ),
    CannotStart(
        "a script without a `#!` line",
        "-- ./bare.sh",
        "not in an executable format (a script needs a #! line): /home/me/bare.sh",
    ),
    CannotStart(
        "a script that begins with a byte order mark",
        "-- ./marked.sh",
        "a byte order mark stands before its #! line: /home/me/marked.sh; save it without, "
        "for example: sed -i '1s/^\\xef\\xbb\\xbf//' /home/me/marked.sh",
    ),
    CannotStart("a directory", "-- ./folder", "not a program but a directory: /home/me/folder"),
    CannotStart(
        "a working directory that is gone",
        "--cwd gone -- true",
        "no such working directory: /home/me/gone",
    ),
    CannotStart(
        "a file as working directory",
        "--cwd plain.sh -- true",
        "the working directory is not a directory: /home/me/plain.sh",
    ),
)
