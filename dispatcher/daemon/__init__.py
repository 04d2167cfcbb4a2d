"""The daemon's outside: composition, loop, sockets, the way to its executor, service manager."""
