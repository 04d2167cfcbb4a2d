"""SQL that compares the counts that triggers keep with the rows: see `store.counting`."""

from typing import Final

#: By how much the counts differ from the rows, in one snapshot. Reads every task and run.
WRONG: Final = """
SELECT queue, state, CAST(sum(many) AS BIGINT) FROM (
    SELECT queue, state, -many AS many FROM counts
    UNION ALL SELECT queue, state, count(*) FROM tasks WHERE state <> 'running'
        GROUP BY queue, state
    UNION ALL SELECT '', outcome, count(*) FROM runs WHERE outcome IS NOT NULL GROUP BY outcome
) AS differing
GROUP BY queue, state HAVING sum(many) <> 0
"""

#: Counts what is missing, where rows are only added; elsewhere `FORGET` goes before.
MEND: Final = f"INSERT INTO counts (queue, state, many) {WRONG}"

FORGET: Final = "DELETE FROM counts"
