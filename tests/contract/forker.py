"""Opens a store, forks, and lets the child follow the commands on stdin: `use` it,
`close` or `drop` it, or just `end`.

It forks by `os.fork`, or in C, as an extension module may, of which Python's hooks learn nothing.

The child ends as any program does, through the interpreter's own end; the parent closes the store
at once, prints `forked`, and waits for it.
"""

import ctypes
import os
import sys
from pathlib import Path

from dispatcher.errors import DispatcherError
from tests.contract.helpers import NOW, new_task
from tests.contract.sqlite_files import opened

if __name__ == "__main__":
    store = opened(Path(sys.argv[1]), patience=5)
    with store.transaction():
        store.submit([new_task()], now=NOW)
    child = ctypes.PyDLL(None).fork() if sys.argv[2:] == ["in C"] else os.fork()
    if child:
        store.close()
        os.write(1, b"forked\n")
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for name in [name for name in sys.modules if "ctypes" in name]:  # as if another had forked
        del sys.modules[name]
    word = sys.stdin.readline().strip()
    if word == "use":
        for way in (store.transaction, store.snapshot):
            try:
                with way():
                    os.write(1, b"opened\n")
            except DispatcherError as error:
                os.write(1, f"{error}\n".encode())
        store.close()
    if word in ("use", "close"):
        store.close()
    if word == "drop":
        del store
    sys.exit(0)
