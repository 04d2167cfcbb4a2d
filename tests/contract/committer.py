"""Commits a task and keeps the store open until it is killed."""

import os
import sys
from pathlib import Path

from tests.contract.helpers import NOW, new_task
from tests.contract.sqlite_files import opened

if __name__ == "__main__":
    store = opened(Path(sys.argv[1]), patience=5)
    with store.transaction():
        store.submit([new_task()], now=NOW)
    os.write(1, b"committed\n")
    sys.stdin.read()
