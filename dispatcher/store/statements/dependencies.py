"""SQL of dependencies: tasks wait for others, their parents. A limit is cast: see `supervisor`.

A task is `awaited` while a dependency on it is open. Tasks are locked before dependencies, which
have no locks of their own: who changes one has locked its child.
"""

from typing import Final

from dispatcher.dependency import Dependency
from dispatcher.store.rows import columns
from dispatcher.store.statements.given import given
from dispatcher.store.statements.supervisor import ENDED_PARENTS

# By their ids, and by their keys, as submits name them. They become an array before any row is
# locked: once a server has waited for a row that was changed, it would not find that in a subquery.
KNOWN: Final = f"""
SELECT tasks.id, tasks.queue, tasks.key, tasks.state FROM tasks WHERE id = ANY (ARRAY(
    SELECT given.id FROM {given("id", "queue", "key")} WHERE given.id IS NOT NULL
    UNION ALL SELECT named.id FROM {given("id", "queue", "key")} JOIN tasks AS named
        ON named.queue = given.queue AND named.key = given.key))
ORDER BY id
"""

PARENTS: Final = f"{KNOWN}FOR NO KEY UPDATE"

_LINKED: Final = ("task_id", "parent_id", "any_outcome", "state")

LINK: Final = f"""
INSERT INTO dependencies ({", ".join(_LINKED)})
SELECT {", ".join(f"given.{name}" for name in _LINKED)}
FROM {given(*_LINKED)} WHERE TRUE
"""

AWAIT: Final = f"""
UPDATE tasks SET awaited = TRUE
FROM {given("id")}
WHERE tasks.id = given.id AND NOT tasks.awaited
"""

ENDED: Final = f"""
SELECT id, state FROM tasks WHERE {ENDED_PARENTS}
ORDER BY id LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE SKIP LOCKED
"""

# In any order: no parent of very many is sorted. A task that others have locked is left for later.
OPEN: Final = f"""
SELECT dependencies.task_id, dependencies.parent_id, dependencies.any_outcome, parents.state,
    tasks.on_parent_failure
FROM {given("id")} JOIN dependencies ON dependencies.parent_id = given.id
    JOIN tasks AS parents ON parents.id = given.id
    JOIN tasks ON tasks.id = dependencies.task_id
WHERE dependencies.state = 'open'
LIMIT CAST(:limit AS BIGINT) FOR NO KEY UPDATE OF tasks SKIP LOCKED
"""

# A search that found a task while another transaction let it go on may have read its dependency
# before that: a server compares the row that it locks anew, and no other.
DECIDE: Final = f"""
UPDATE dependencies SET state = given.state
FROM {given("task_id", "parent_id", "before", "state")}
WHERE dependencies.task_id = given.task_id AND dependencies.parent_id = given.parent_id
    AND dependencies.state = given.before
"""

COUNT: Final = f"""
UPDATE tasks SET blockers = (SELECT count(*) FROM dependencies
    WHERE dependencies.task_id = tasks.id AND dependencies.state = 'open')
FROM {given("id")}
WHERE tasks.id = given.id
"""

# Nobody adds a dependency on a task that has finished.
AWAITED_NO_MORE: Final = f"""
UPDATE tasks SET awaited = FALSE
FROM {given("id")}
WHERE tasks.id = given.id AND NOT EXISTS (SELECT 1 FROM dependencies
    WHERE dependencies.parent_id = tasks.id AND dependencies.state = 'open')
"""

#: The children whose dependency on a task broke, and that do not run.
BROKEN: Final = """
SELECT tasks.id FROM tasks JOIN dependencies ON dependencies.task_id = tasks.id
WHERE dependencies.parent_id = :id AND dependencies.state = 'broken'
    AND tasks.state <> 'running' AND tasks.state <> 'succeeded'
ORDER BY dependencies.task_id FOR NO KEY UPDATE OF tasks
"""

BROKEN_OF: Final = f"""
SELECT dependencies.task_id FROM {given("id")} JOIN dependencies
    ON dependencies.parent_id = given.id AND dependencies.state = 'broken'
"""

WAIVE: Final = """
UPDATE dependencies SET state = 'met' WHERE task_id = :id AND state = :state
"""

FIRST_BROKEN: Final = """
SELECT dependencies.parent_id, parents.state, tasks.on_parent_failure
FROM dependencies JOIN tasks ON tasks.id = dependencies.task_id
    LEFT JOIN tasks AS parents ON parents.id = dependencies.parent_id
WHERE dependencies.task_id = :id AND dependencies.state = 'broken'
ORDER BY dependencies.parent_id LIMIT 1
"""

_DEPENDENCY: Final = {
    "other": "tasks.state",
    "other_reason": "tasks.reason",
    **{name: f"dependencies.{name}" for name in ("task_id", "parent_id", "any_outcome", "state")},
}

_COLUMNS: Final = columns(Dependency, **_DEPENDENCY)

PARENTS_OF: Final = f"""
SELECT {_COLUMNS} FROM {given("task_id")} JOIN dependencies
    ON dependencies.task_id = given.task_id
    LEFT JOIN tasks ON tasks.id = dependencies.parent_id
ORDER BY dependencies.task_id, dependencies.parent_id LIMIT CAST(:limit AS BIGINT)
"""

CHILDREN_OF: Final = f"""
SELECT {_COLUMNS} FROM dependencies JOIN tasks ON tasks.id = dependencies.task_id
WHERE dependencies.parent_id = :id ORDER BY dependencies.task_id LIMIT CAST(:limit AS BIGINT)
"""

# For the runs of tasks that have waited, as `DISPATCHER_PARENTS` gives them.
RESULTS: Final = f"""
SELECT dependencies.task_id, dependencies.parent_id, tasks.key, tasks.state, runs.outcome,
    runs.result
FROM {given("task_id")} JOIN dependencies ON dependencies.task_id = given.task_id
    LEFT JOIN tasks ON tasks.id = dependencies.parent_id
    LEFT JOIN runs ON runs.task_id = tasks.id AND runs.fence = tasks.fence
ORDER BY dependencies.task_id, dependencies.parent_id
"""
