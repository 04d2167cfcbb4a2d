"""How a server stores the tables whose rows change most.

A changed row is a new version of it. The old one can be removed only when no snapshot can still see
it: until then the table grows. Room in each page lets a beat's version stay in the page of the old
one, where no index changes, and where the next reader removes what is dead. Vacuum comes after a
fixed number of dead versions, not after a share of a table that may be large. `bench/snapshot.py`
measures it. A task changes columns of its indexes each time, so room in its pages would not help.
"""

from typing import Final

STORAGE: Final = """
ALTER TABLE runs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0);
ALTER TABLE tasks SET (autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0);
ALTER TABLE nodes SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 100);
ALTER TABLE bulk_submits SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 100)
"""
