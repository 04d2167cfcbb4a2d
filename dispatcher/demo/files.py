"""The main job: a gzip task for each of a folder's largest files."""

import gzip
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

FILES = 48

#: Bytes of a file at most: all files are compressed within seconds.
LARGEST = 2 * 1024 * 1024

#: Files that compress only after a pause: they are running when the daemon is killed.
SLOW = 3
SLOW_PAUSE = 3.0

_COMPRESS = 'exec gzip < "$1" > "$2"'


def largest(folder: Path) -> list[Path]:
    """Return the largest files below a folder that are not too large, largest first."""
    sizes = []
    for file in folder.rglob("*"):
        with suppress(OSError):
            size = file.lstat().st_size
            if size <= LARGEST and file.is_file() and not file.is_symlink():
                sizes.append((size, file))
    return [file for _, file in sorted(sizes, reverse=True)[:FILES]]


class Job:
    """The files, and where their compressed forms go."""

    def __init__(self, files: Sequence[Path], results: Path, *, pause: float = 0) -> None:
        """`pause`: seconds before each file that is not one of the slow ones."""
        self._files = files
        self._pause = pause
        self._results = results
        results.mkdir()

    def __len__(self) -> int:
        return len(self._files)

    def commands(self) -> Iterator[list[str]]:
        """Yield the command that compresses each file."""
        for number, file in enumerate(self._files):
            pause = SLOW_PAUSE if number < SLOW else self._pause
            script = f"sleep {pause:g}; {_COMPRESS}" if pause else _COMPRESS
            yield ["sh", "-c", script, "gzip", str(file), str(self._result(number))]

    def intact(self) -> int:
        """Return how many results pass `gzip -t` and equal their original."""
        return sum(map(self._is_intact, range(len(self._files))))

    def _is_intact(self, number: int) -> bool:
        result = self._result(number)
        tested = subprocess.run(["gzip", "-t", str(result)], check=False, capture_output=True)
        if tested.returncode != 0:
            return False
        with suppress(OSError, EOFError, zlib.error):
            return gzip.decompress(result.read_bytes()) == self._files[number].read_bytes()
        return False

    def _result(self, number: int) -> Path:
        return self._results / f"{number:02}-{self._files[number].name}.gz"
