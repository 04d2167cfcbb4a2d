"""Lines for systemd's journal: each begins with its priority, which the journal takes off again."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: What a line of each level begins with: sd-daemon(3).
PREFIX = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}


def leads_to(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Tell whether what is written to a descriptor ends in the journal.

    systemd.exec(5): $JOURNAL_STREAM has its device and inode, and says nothing of a descriptor that
    was redirected since.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"
