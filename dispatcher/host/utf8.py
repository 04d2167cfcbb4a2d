"""Every text is UTF-8, whatever the locale: from terminals, files and the kernel."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def ensure_utf8_mode() -> None:
    """Restart this program in Python's UTF-8 mode, if its locale has another encoding.

    Otherwise arguments, environment and file names would be other bytes to the programs that start
    it and that it starts. Call it before anything is opened. It also restores the variable that
    Python sets for a program without a locale (PEP 538): workers inherit it.
    """
    if "LC_CTYPE" in os.environ:
        _restore(b"LC_CTYPE")
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, words)  # noqa: S606 - the same program, no shell


def as_utf8(text: str) -> str:
    """Return a text that a message can carry: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _restore(name: bytes) -> None:
    """Restore a variable's value of the start of this process, if /proc shows it."""
    with suppress(OSError):
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
        given = next((entry for entry in entries if entry.startswith(name + b"=")), None)
        if given is None:
            del os.environb[name]
        else:
            os.environb[name] = given.partition(b"=")[2]
