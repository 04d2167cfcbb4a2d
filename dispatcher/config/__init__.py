"""The configuration file: its keys, and how it is read, checked, explained and reloaded."""
