"""The deciding part: one synchronous tick over the store and the processes; no socket, no clock."""
