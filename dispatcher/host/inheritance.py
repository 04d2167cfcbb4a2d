"""Repairs what a program inherits, before it opens anything or waits for a signal."""

import os
import signal

#: The descriptor of stderr, also if Python found it closed and made no `sys.stderr`.
STDERR = 2


def repair() -> None:
    """Open `/dev/null` at closed descriptors 0 to 2, and unblock all signals.

    A database or lock that got descriptor 1 would receive printed text. A signal mask survives
    exec: a service that inherits a blocked SIGTERM could only be killed.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(null, True)
    os.close(null)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
