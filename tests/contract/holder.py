"""A process that holds the write lock of a database until its input ends: run by test_sqlite."""

import sys
from pathlib import Path

from dispatcher.store.sqlite import SqliteEngine

engine = SqliteEngine(Path(sys.argv[1]), patience=20)
engine.begin(write=True)
sys.stdout.write("held\n")
sys.stdout.flush()
sys.stdin.read()
engine.rollback()
engine.close()
