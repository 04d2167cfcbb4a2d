"""Every text is UTF-8: what a terminal, a file or the kernel gave us, whatever the locale is."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def insist() -> None:
    """Begin this program anew in Python's UTF-8 mode, where its locale has another encoding.

    Arguments, environment and the names of files would be other bytes for who started us, and for
    what we start. Nothing may be open yet that the new one should find. What Python itself sets in
    the environment of a program without a locale (PEP 538) is taken back: workers inherit it.
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
    """Set a variable to what it was when this process began, as far as that is known."""
    with suppress(OSError):
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
        given = next((entry for entry in entries if entry.startswith(name + b"=")), None)
        if given is None:
            del os.environb[name]
        else:
            os.environb[name] = given.partition(b"=")[2]
