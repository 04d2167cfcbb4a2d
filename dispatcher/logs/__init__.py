"""The logs of daemon and executor: the catalogue of events, and how lines are written."""
