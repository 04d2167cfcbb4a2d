"""Files that are quiet: they are not looked at again before they are written to."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Generic, TypeVar

from dispatcher.executor.system.write_watch import WriteWatch

T = TypeVar("T")


class QuietFiles(Generic[T]):
    """Watches the files of items for their next write, once for each `watch`."""

    def __init__(self, wait_for: Callable[[int], object]) -> None:
        """`wait_for` makes the loop wait for a descriptor; it is called at the first `watch`."""
        self._wait_for = wait_for
        self._writes: WriteWatch | None = None
        self._numbers: dict[T, int] = {}
        self._items: dict[int, list[T]] = {}
        """By the number of their watch: a worker may have made one file of two outputs."""

    def close(self) -> None:
        """Close the descriptor."""
        if self._writes is not None:
            self._writes.close()

    def watch(self, item: T, path: str) -> bool:
        """Watch an item's file for its next write; False if the host is short of what that needs.

        A write of before is not reported: measure the file afterwards.
        """
        writes = self._writes = self._writes or self._made()
        if writes is None or (number := writes.add(path)) is None:
            return False
        self._numbers[item] = number
        items = self._items.setdefault(number, [])
        if item not in items:
            items.append(item)
        return True

    def _made(self) -> WriteWatch | None:
        writes = WriteWatch()
        try:
            if writes.descriptor >= 0:
                self._wait_for(writes.descriptor)
                return writes
        except OSError:
            writes.close()
        return None

    def drop(self, item: T) -> None:
        """End an item's watch, if there is one."""
        number = self._numbers.pop(item, None)
        if number is None or self._writes is None:
            return
        self._items[number].remove(item)
        if not self._items[number]:
            del self._items[number]
            self._writes.remove(number)

    def written(self, ready: Container[int]) -> list[T]:
        """Return the items whose files were written to, if the descriptor is among the `ready`."""
        if self._writes is None or self._writes.descriptor not in ready:
            return []
        written: list[T] = []
        for number in self._writes.read():
            for item in self._items.pop(number, ()):
                if self._numbers.get(item) == number:
                    del self._numbers[item]
                written.append(item)
        return written
