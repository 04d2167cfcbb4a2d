"""Every text is UTF-8: what a terminal, a file or the kernel gave us, whatever the locale is."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def insist() -> None:
    """Begin this program anew in Python's UTF-8 mode, where its locale has another encoding.

    Arguments, environment and the names of files would be other bytes for who started us, and for
    what we start. Nothing may be open yet that the new one should find. What Python itself puts
    into the environment of a program without a locale (PEP 538) is taken out: workers inherit it.
    """
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, words)  # noqa: S606 - the same program, no shell
    if "LC_CTYPE" in os.environ and not _was_given(b"LC_CTYPE"):
        del os.environ["LC_CTYPE"]


def _was_given(name: bytes) -> bool:
    """Say whether a variable was in the environment that this process began with."""
    try:
        given = Path("/proc/self/environ").read_bytes()
    except OSError:
        return True
    return any(entry.startswith(name + b"=") for entry in given.split(b"\0"))
