"""SQL of concurrency keys: of the tasks of a queue with the same one, one has it.

A holder is in a lane of its own needs; all others, whatever their state, are in `lanes.BEHIND`. A
task whose move may have set its key free, or that may get it, is `key_due`. A limit is cast: see
`supervisor`.
"""

from typing import Final

from dispatcher.lanes import BEHIND
from dispatcher.store.statements.given import given

DUE: Final = """
SELECT id, queue, concurrency_key FROM tasks WHERE key_due
ORDER BY id LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE SKIP LOCKED
"""

_OF_KEY: Final = """tasks.queue = given.queue AND tasks.concurrency_key = given.concurrency_key
    AND tasks.concurrency_key IS NOT NULL"""

#: Of each key that nobody has, the first task that waits for it.
NEXT: Final = f"""
SELECT given.queue, given.concurrency_key, (SELECT tasks.id FROM tasks
    WHERE {_OF_KEY} AND tasks.state = 'ready' AND tasks.lane = '{BEHIND}'
    ORDER BY tasks.rank, tasks.id LIMIT 1)
FROM {given("queue", "concurrency_key")}
WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE {_OF_KEY} AND tasks.lane <> '{BEHIND}')
"""

#: Those that nobody has moved meanwhile, or is moving.
TAKE: Final = f"""
SELECT id, requires, takes FROM tasks
WHERE id IN (SELECT given.id FROM {given("id")}) AND state = 'ready' AND lane = '{BEHIND}'
ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
"""

GIVE: Final = f"""
UPDATE tasks SET lane = given.lane FROM {given("id", "lane")} WHERE tasks.id = given.id
"""

DECIDED: Final = f"UPDATE tasks SET key_due = FALSE FROM {given('id')} WHERE tasks.id = given.id"

#: A task that is moved to another queue may leave its key to another one.
LEAVE: Final = f"""
UPDATE tasks SET key_due = TRUE WHERE id = (SELECT tasks.id FROM tasks
    WHERE queue = :queue AND concurrency_key = :key AND concurrency_key IS NOT NULL
        AND state = 'ready' AND lane = '{BEHIND}'
    ORDER BY rank, id LIMIT 1)
"""
