"""Commands that are accepted and cannot be started."""

from __future__ import annotations

from collections.abc import Sequence

from tests.mistakes.kinds import CannotStart

CANNOT_START: Sequence[CannotStart] = (
    CannotStart(
        name="a program that is not installed",
        submitted="-- no-such-program",
        told="no such program: 'no-such-program' (not in PATH '/usr/local/bin:/usr/bin:/bin')",
    ),
    CannotStart(
        name="a script that is not there",
        submitted="-- ./nowhere.sh",
        told="no such program: /home/me/nowhere.sh",
    ),
    CannotStart(
        name="a script that is not executable",
        submitted="-- ./plain.sh",
        told="not executable: /home/me/plain.sh",
    ),
    CannotStart(
        name="a script whose interpreter is not installed",
        submitted="-- ./strange.sh",
        told=(
            "missing interpreter: /home/me/strange.sh needs /opt/strange/bin/run, "
            "which does not exist"
        ),
    ),
    CannotStart(
        name="a script with line ends of Windows",
        submitted="-- ./windows.sh",
        told=(
            "its first line ends with a carriage return: /home/me/windows.sh needs '/bin/sh\\r'; "
            "save it with line ends of Unix, for example: sed -i 's/\\r$//' /home/me/windows.sh"
        ),
    ),
    CannotStart(
        name="a script without a `#!` line",
        submitted="-- ./bare.sh",
        told="not in an executable format (a script needs a #! line): /home/me/bare.sh",
    ),
    CannotStart(
        name="a script that begins with a byte order mark",
        submitted="-- ./marked.sh",
        told=(
            "a byte order mark stands before its #! line: /home/me/marked.sh; save it without, "
            "for example: sed -i '1s/^\\xef\\xbb\\xbf//' /home/me/marked.sh"
        ),
    ),
    CannotStart(
        name="a directory",
        submitted="-- ./folder",
        told="not a program but a directory: /home/me/folder",
    ),
    CannotStart(
        name="a working directory that is gone",
        submitted="--cwd gone -- true",
        told="no such working directory: /home/me/gone",
    ),
    CannotStart(
        name="a file as working directory",
        submitted="--cwd plain.sh -- true",
        told="the working directory is not a directory: /home/me/plain.sh",
    ),
)
