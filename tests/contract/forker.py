"""Opens a store, forks, and lets the child do what it is told on stdin: `use` it, or `end`.

The child ends as any program does, through the interpreter's own end; the parent closes the store
at once, says `forked`, and waits for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dispatcher.errors import DispatcherError
from tests.contract.helpers import NOW, new_task
from tests.contract.sqlite_files import opened

if __name__ == "__main__":
    store = opened(Path(sys.argv[1]), patience=5)
    with store.transaction():
        store.submit(new_task(), now=NOW)
    child = os.fork()
    if child:
        store.close()
        os.write(1, b"forked\n")
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if sys.stdin.readline() == "use\n":
        for way in (store.transaction, store.snapshot):
            try:
                with way():
                    os.write(1, b"opened\n")
            except DispatcherError as error:
                os.write(1, f"{error}\n".encode())
        store.close()
        store.close()
    del store
    sys.exit(0)
