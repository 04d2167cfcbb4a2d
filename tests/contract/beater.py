"""A process that beats on request and prints the answer: run by test_lease_races."""

import json
import sys
from pathlib import Path

from dispatcher.store.open import open_store
from dispatcher.times import StoreTime
from dispatcher.words import Beat, Refused

url, state_dir = sys.argv[1:]
store = open_store(url, state_dir=Path(state_dir), patience=20)
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    request = json.loads(line)
    for _ in range(request["dawdle"]):
        pass
    beat = Beat(task_id=request["task_id"], lock=request["lock"])
    with store.transaction():
        answer = store.heartbeat([beat], now=StoreTime(request["now"]))[0]
    word = answer.error if isinstance(answer, Refused) else "ok"
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()
store.close()
