"""What a program was started with, put in order before it opens anything or waits for a signal."""

from __future__ import annotations

import os
import signal

#: The descriptor of stderr, also where Python found it closed and made no `sys.stderr`.
STDERR = 2


def put_in_order() -> None:
    """Fill descriptors 0 to 2 that are closed, and block no signal.

    A database or a lock in the place of stdout would receive what somebody prints. A mask outlives
    exec: a service that its starter's mask keeps from SIGTERM could only be killed.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(null, True)
    os.close(null)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
