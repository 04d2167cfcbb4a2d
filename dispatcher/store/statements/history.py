"""SQL of failovers, and of what waits after one."""

READ = "SELECT value FROM meta WHERE key = 'history'"

LOCK = f"{READ} FOR UPDATE"

ADD = "INSERT INTO meta (key, value) VALUES ('history', :value) ON CONFLICT (key) DO NOTHING"

WRITE = "UPDATE meta SET value = :value WHERE key = 'history'"

LAST_SEEN = "SELECT max(seen_at), max(unconfirmed_ms) FROM nodes"

# A node that left in order, without a run, has no session.
AWAITED = """
SELECT hostname, unconfirmed_ms FROM nodes
WHERE timeline <> :timeline AND seen_at >= :since AND session <> '' ORDER BY hostname, id
"""

RECONCILED = """
UPDATE nodes SET timeline = :timeline WHERE id = :node AND timeline <> :timeline
"""

# The rows of a restored copy: none of their daemons has compared its runs with it.
AWAIT_ALL = "UPDATE nodes SET timeline = 0 WHERE timeline <> 0"

POSTPONE_TAKEOVERS = """
INSERT INTO meta (key, value) VALUES ('takeovers_after', :value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""

# Renewals may be forgotten, or given by a clock that was set since. Only this key holds a number.
TAKEOVERS_ALLOWED = """NOT EXISTS (SELECT 1 FROM meta WHERE key = 'takeovers_after'
        AND CASE key WHEN 'takeovers_after'
            THEN CAST(value AS BIGINT) + COALESCE(runs.kill_grace_ms, 0) > :now ELSE FALSE END)"""
