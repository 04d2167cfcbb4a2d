"""Commands that are accepted and cannot be started."""

from collections.abc import Sequence

from tests.mistakes.kinds import CannotStart

CANNOT_START: Sequence[CannotStart] = (
    CannotStart(
        name="a program that is not installed",
        submitted="-- no-such-program",
        text="no such program: 'no-such-program' (not in the PATH of its submitter or profile)",
    ),
    CannotStart(
        name="a script that is not there",
        submitted="-- ./nowhere.sh",
        text="no such program: /home/me/nowhere.sh",
    ),
    CannotStart(
        name="a script that is not executable",
        submitted="-- ./plain.sh",
        text="not executable: /home/me/plain.sh",
    ),
    CannotStart(
        name="a script whose interpreter is not installed",
        submitted="-- ./strange.sh",
        text=(
            "missing interpreter: /home/me/strange.sh needs /opt/strange/bin/run, "
            "which does not exist"
        ),
    ),
    CannotStart(
        name="a script with line ends of Windows",
        submitted="-- ./windows.sh",
        text=(
            "its first line ends with a carriage return: /home/me/windows.sh needs '/bin/sh\\r'; "
            "save it with line ends of Unix, for example: sed -i 's/\\r$//' /home/me/windows.sh"
        ),
    ),
    CannotStart(
        name="a script without a `#!` line",
        submitted="-- ./bare.sh",
        text="not in an executable format (a script needs a #! line): /home/me/bare.sh",
    ),
    CannotStart(
        name="a script that begins with a byte order mark",
        submitted="-- ./marked.sh",
        text=(
            "a byte order mark stands before its #! line: /home/me/marked.sh; save it without, "
            "for example: sed -i '1s/^\\xef\\xbb\\xbf//' /home/me/marked.sh"
        ),
    ),
    CannotStart(
        name="a directory",
        submitted="-- ./folder",
        text="not a program but a directory: /home/me/folder",
    ),
    CannotStart(
        name="a working directory that is gone",
        submitted="--cwd gone -- true",
        text="no such working directory: /home/me/gone",
    ),
    CannotStart(
        name="a file as working directory",
        submitted="--cwd plain.sh -- true",
        text="the working directory is not a directory: /home/me/plain.sh",
    ),
)
