"""The configuration file: what may stand in it, how it is read, checked, told and read again."""
