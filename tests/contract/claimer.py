"""A process that claims whatever it can, and prints what: run by test_races."""

import json
import sys
from pathlib import Path

from dispatcher.store.open import open_store

url, state_dir, node = sys.argv[1:]
store = open_store(url, state_dir=Path(state_dir), patience=20)
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.readline()
claimed: list[tuple[int, int, str]] = []
while True:
    with store.transaction() as now:
        claims = store.claim("default", limit=2, node=node, output_dir="/out", now=now)
    if not claims:
        break
    claimed += [(claim.task_id, claim.fence, claim.lock) for claim in claims]
sys.stdout.write(json.dumps(claimed))
store.close()
