"""SQL of the nodes' rows, and of the limits that they share."""

from typing import Final

from dispatcher.execution import LOCAL
from dispatcher.model import Node
from dispatcher.store.engine import FORGETTABLE
from dispatcher.store.rows import columns, names

#: The columns that a node's daemon writes; operators and the store write the others.
RECORDED: Final = tuple(name for name in names(Node) if name not in {"draining", "timeline"})

_VALUES: Final = ", ".join(f":{name}" for name in RECORDED)

NODES = f"SELECT {columns(Node)} FROM nodes ORDER BY hostname, id"

NODE = f"SELECT {columns(Node)} FROM nodes WHERE id = :node"

# Local claims have no node.
RUNNING_BY_NODE = f"""
SELECT node, count(*) FROM runs WHERE outcome IS NULL AND substr(node, 1, {len(LOCAL)}) <> '{LOCAL}'
GROUP BY node
"""

# A row that was forgotten meanwhile is made anew, with what its daemon has compared its runs with.
RECORD = f"""
INSERT INTO nodes ({", ".join(RECORDED)}, timeline) VALUES ({_VALUES}, :timeline)
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in RECORDED[1:])}
WHERE nodes.session = excluded.session
{FORGETTABLE}"""

_TAKEN: Final = ("boot_id", "pid_namespace", "hostname", "session")

# Who takes over a row leaves when it was last seen: leases are judged by that. A daemon that writes
# it after it was read keeps it.
TAKE = f"""
INSERT INTO nodes ({", ".join(RECORDED)}) VALUES ({_VALUES})
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _TAKEN)}
WHERE nodes.session = :was AND nodes.seen_at = :was_seen_at
"""

LEAVE = "UPDATE nodes SET session = '' WHERE id = :node AND session = :session"

DRAIN = "UPDATE nodes SET draining = :reason WHERE id = :node"

RESUME = "UPDATE nodes SET draining = NULL WHERE id = :node AND draining IS NOT NULL"

# One that was not seen for three of its intervals, or has stopped, and holds no claim.
FORGET = """
DELETE FROM nodes WHERE id = :node
    AND ((session = '' AND CAST(:shared AS BOOLEAN)) OR seen_at + 3 * seen_interval_ms <= :now)
    AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.node = nodes.id AND outcome IS NULL)
RETURNING hostname
"""

#: Whether a node takes work, by its row, as which session its daemon claims: a condition.
TAKES_WORK: Final = """NOT EXISTS (SELECT 1 FROM nodes
    WHERE id = :node AND (draining IS NOT NULL OR session <> :session))"""

#: The same for a claim, which keeps the row as it is until its commit: so a daemon that locks the
#: row of its node has waited for the claims of all earlier sessions (ADR 27).
CLAIMS_WORK: Final = """(EXISTS (SELECT 1 FROM nodes
        WHERE id = :node AND draining IS NULL AND session = :session FOR SHARE)
    OR NOT EXISTS (SELECT 1 FROM nodes WHERE id = :node))"""


# Those that run are few: the tasks of a queue may be many.
RUNNING_OF_QUEUE = f"""
SELECT count(*) FROM runs WHERE outcome IS NULL AND substr(node, 1, {len(LOCAL)}) <> '{LOCAL}'
    AND (SELECT queue FROM tasks WHERE tasks.id = runs.task_id) = :queue
"""
