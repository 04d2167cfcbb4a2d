"""Holes in files, made by path."""

import os

from dispatcher.host.holes import punch


def punch_out(path: str, offset: int, length: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        punch(descriptor, offset, length)
    finally:
        os.close(descriptor)
