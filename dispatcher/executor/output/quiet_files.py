"""Quiet files, examined again only after a write: inotify(7), once for each file and watch."""

import ctypes
import os
import struct
from collections.abc import Callable, Container
from typing import Generic, TypeVar

#: IN_CLOEXEC | IN_NONBLOCK; IN_MODIFY | IN_ONESHOT: sys/inotify.h.
_NEW = os.O_CLOEXEC | os.O_NONBLOCK
_FIRST_WRITE = 0x00000002 | 0x80000000

#: Watch, mask, cookie, length of a name: a file that is watched itself has none.
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None)

T = TypeVar("T")


class QuietFiles(Generic[T]):
    """Watches the files of items for their next write, once for each `watch`."""

    def __init__(self, wait_for: Callable[[int], object]) -> None:
        """`wait_for` makes the loop wait for a descriptor; it is called at the first `watch`."""
        self._wait_for = wait_for
        self._inotify: int | None = None
        self._numbers: dict[T, int] = {}
        self._items: dict[int, list[T]] = {}
        """By the number of their watch: a worker may have made one file of two outputs."""

    def close(self) -> None:
        if self._inotify is not None:
            os.close(self._inotify)

    def watch(self, item: T, path: str) -> bool:
        """Watch an item's file for its next write; False if the host is short of what that needs.

        A write of before is not reported: measure the file afterwards.
        """
        if self._inotify is None:
            self._inotify = self._opened()
        if self._inotify is None:
            return False
        number = _libc.inotify_add_watch(self._inotify, os.fsencode(path), _FIRST_WRITE)
        if number < 0:
            return False
        self._numbers[item] = number
        items = self._items.setdefault(number, [])
        if item not in items:
            items.append(item)
        return True

    def _opened(self) -> int | None:
        descriptor: int = _libc.inotify_init1(_NEW)
        if descriptor < 0:
            return None
        try:
            self._wait_for(descriptor)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def drop(self, item: T) -> None:
        """End an item's watch, if there is one."""
        number = self._numbers.pop(item, None)
        if number is None:
            return
        self._items[number].remove(item)
        if not self._items[number]:
            del self._items[number]
            _libc.inotify_rm_watch(self._inotify, number)

    def written(self, ready: Container[int]) -> list[T]:
        """Return the items whose files were written to, if the descriptor is among the `ready`."""
        if self._inotify is None or self._inotify not in ready:
            return []
        try:
            events = os.read(self._inotify, 1 << 16)
        except BlockingIOError:
            return []
        written: list[T] = []
        for number, *_ in _EVENT.iter_unpack(events):  # of watches that `drop` ended too
            for item in self._items.pop(number, ()):
                if self._numbers.get(item) == number:
                    del self._numbers[item]
                written.append(item)
        return written
