"""SQL of the lanes of ready tasks (`dispatcher.lanes`). A limit is cast: see `supervisor`.

A lane is found by a jump in an index from the one before, however many tasks each has.
"""

from functools import cache
from typing import Final

from dispatcher.store.statements.given import given

_IS_READY: Final = "tasks.state = 'ready' AND tasks.queue = :queue"

#: The lanes of a queue behind one, in the order of their bytes.
OF_QUEUE: Final = f"""
WITH RECURSIVE walk (lane, place) AS (
    SELECT (SELECT lane FROM tasks WHERE {_IS_READY} AND lane > :after ORDER BY lane LIMIT 1), 1
    UNION ALL
    SELECT (SELECT tasks.lane FROM tasks WHERE {_IS_READY} AND tasks.lane > walk.lane
        ORDER BY tasks.lane LIMIT 1), walk.place + 1
    FROM walk WHERE walk.lane IS NOT NULL AND walk.place < :limit
)
SELECT lane FROM walk WHERE lane IS NOT NULL
"""


@cache
def first(lanes: int) -> str:
    """Return the SELECT of the first ready tasks of so many lanes of a queue, in their order.

    Of `:lane0` it reads at most `:most0`, and so on; of all together it returns `:limit`. Without
    the bound of each, a server that expects few tasks would read all lanes to their ends.
    """
    each = (
        f"""SELECT * FROM (SELECT id, lane, rank FROM tasks WHERE {_IS_READY} AND lane = :lane{n}
    ORDER BY rank, id LIMIT CAST(:most{n} AS BIGINT)) AS of{n}
"""
        for n in range(lanes)
    )
    return "UNION ALL ".join(each) + "ORDER BY rank, id LIMIT CAST(:limit AS BIGINT)\n"


# In each lane, what comes before a task is a range of the index. A cross join lets SQLite begin
# with the lanes.
BEFORE: Final = f"""
SELECT count(*) FROM (
    SELECT 1 FROM {given("lane")} CROSS JOIN tasks
    WHERE {_IS_READY} AND tasks.lane = given.lane
        AND (tasks.rank, tasks.id) < ((SELECT rank FROM tasks WHERE id = :id), :id)
    LIMIT CAST(:limit AS BIGINT)) AS before
"""

_WALK: Final = """
WITH RECURSIVE walk (queue, lane) AS (
    SELECT * FROM (SELECT queue, lane FROM tasks WHERE state = 'ready'
        ORDER BY queue, lane LIMIT 1) AS least
    UNION ALL
    SELECT tasks.queue, tasks.lane FROM walk JOIN tasks ON tasks.id = (
        SELECT id FROM tasks AS later
        WHERE state = 'ready' AND (later.queue, later.lane) > (walk.queue, walk.lane)
        ORDER BY later.queue, later.lane LIMIT 1)
)
"""

#: The lanes of all queues with ready tasks.
ALL: Final = f"{_WALK}SELECT queue, lane FROM walk"

#: The same without paused queues.
UNPAUSED: Final = f"{ALL} WHERE queue NOT IN (SELECT queue FROM paused_queues)"

# Of tasks that are not due yet.
SCHEDULED: Final = """
SELECT DISTINCT queue, lane FROM tasks WHERE state = 'scheduled' AND lane > ''
"""

_OF_LANE: Final = """
    FROM tasks WHERE state = 'ready' AND tasks.queue = walk.queue AND tasks.lane = walk.lane"""

#: How many tasks are ready in each lane that needs something, and since when the first is.
SINCE: Final = f"""
{_WALK}SELECT queue, lane, (SELECT count(*){_OF_LANE}), (SELECT min(run_at){_OF_LANE})
FROM walk WHERE lane > '' LIMIT CAST(:limit AS BIGINT)
"""
