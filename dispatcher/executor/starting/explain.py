"""Why the kernel does not execute a program, and the remedy."""

import errno
import os
import resource
from codecs import BOM_UTF8

from dispatcher import wire
from dispatcher.host import files

#: Bytes of one argument or variable, with its end, that the kernel takes: 32 pages.
MOST_BYTES_OF_ONE = 32 * resource.getpagesize()

#: Bytes of all of them together, where a quarter of the stack is not less.
MOST_BYTES = 6 * 1024 * 1024

#: Bytes of a script read to name its interpreter: what the kernel itself looks at.
_SHEBANG_BYTES = 256

#: Interpreters in a row, each a script that needs the next, that the kernel follows.
_MOST_IN_A_ROW = 5


def shows_path(start: wire.Start) -> bool:
    """Return whether messages may show a PATH and what was found by it: not one that was sent.

    That may be a secret: of the submitter's environment, or of a profile's `env_file`.
    """
    return "PATH" not in start.env


def explain(error: OSError, program: str, start: wire.Start) -> str:
    """Return why a program could not be executed."""
    path = os.path.join(start.cwd or "/", program.removeprefix("./"))
    is_shown = shows_path(start) or not program or "/" in start.command[0]
    shown = path if is_shown else start.command[0]
    number = error.errno
    last, needed = _last_script(path)
    script = shown if last == path else last
    text = f"cannot start {shown}: {error.strerror}"
    if number == errno.E2BIG:
        text = too_large(start)
    elif number == errno.ENOEXEC:
        text = _no_format(needed or path, needed or shown)
    elif number in {errno.ENOENT, errno.ENOTDIR}:
        text = _missing(path, shown, script, needed)
    elif number == errno.ELOOP and needed:
        text = f"too many interpreters in a row: {shown} needs {interpreter(path)}, and so on"
    elif number == errno.EACCES and os.path.isdir(path):
        text = f"not a program but a directory: {shown}"
    elif number == errno.EACCES and needed and os.access(path, os.X_OK):
        text = f"not executable: {needed}, the interpreter of {script}"
    elif number == errno.EACCES and os.path.exists(path):
        text = f"not executable: {shown}"
    return text


def _missing(path: str, shown: str, script: str, needed: str | None) -> str:
    """Return what is missing: a program, the interpreter of a script, or a loader."""
    whose = script if script == shown else f"{script}, the interpreter of {shown},"
    if not os.path.exists(path):
        return f"no such program: {shown}"
    if needed is None or os.path.exists(needed):
        return f"missing interpreter: {needed or shown} needs a loader, which does not exist"
    if needed.endswith("\r"):
        remedy = f"save it with line ends of Unix, for example: sed -i 's/\\r$//' {script}"
        return f"its first line ends with a carriage return: {whose} needs {needed!r}; {remedy}"
    return f"missing interpreter: {whose} needs {needed}, which does not exist"


def _last_script(path: str) -> tuple[str, str | None]:
    """Return the last script that the kernel reads for a program, and its interpreter."""
    needed = interpreter(path)
    for _ in range(_MOST_IN_A_ROW):
        following = interpreter(needed) if needed and os.access(needed, os.X_OK) else None
        if not needed or not following:
            break
        path, needed = needed, following
    return path, needed


def _no_format(path: str, shown: str) -> str:
    """Return why the kernel does not know a file's format."""
    if _beginning(path).startswith(BOM_UTF8 + b"#!"):
        remedy = f"save it without, for example: sed -i '1s/^\\xef\\xbb\\xbf//' {shown}"
        return f"a byte order mark stands before its #! line: {shown}; {remedy}"
    return f"not in an executable format (a script needs a #! line): {shown}"


def too_large(start: wire.Start) -> str:
    """Return which limit of the kernel a command line exceeds (execve(2), "Limits on size")."""
    variables = [f"{name}={value}" for name, value in start.env.items()]
    sizes = {
        **{word: f"argument {number}" for number, word in enumerate(start.command)},
        **{text: f"variable {text.partition('=')[0]}" for text in variables},
    }
    longest = max(sizes, key=lambda text: len(text.encode()))
    size = len(longest.encode())
    if size >= MOST_BYTES_OF_ONE:
        return f"{sizes[longest]} is too large: {size} bytes, one may have {MOST_BYTES_OF_ONE - 1}"
    total = sum(len(text.encode()) + 1 for text in (*start.command, *variables))
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    most = MOST_BYTES if stack == resource.RLIM_INFINITY else min(MOST_BYTES, stack // 4)
    return f"arguments and environment are too large: {total} bytes, they may have about {most}"


def interpreter(script: str) -> str | None:
    """Return the interpreter that the #! line of a file names, if it has one."""
    first, _, _ = _beginning(script).partition(b"\n")
    # As in the kernel, only blanks separate words, and a carriage return is part of one.
    words = first[2:].replace(b"\t", b" ").split(b" ") if first.startswith(b"#!") else []
    return next((word.decode(errors="replace") for word in words if word), None)


def _beginning(path: str) -> bytes:
    """Return the part of a file that the kernel reads; empty if it cannot be read."""
    try:
        # Reading a FIFO or a device could wait for ever.
        with files.opened(path) as file:
            return file.read(_SHEBANG_BYTES)
    except OSError:
        return b""
