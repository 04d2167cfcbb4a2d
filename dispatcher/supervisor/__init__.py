"""The deciding part: one synchronous tick over the store and the executor; no socket, no clock."""
