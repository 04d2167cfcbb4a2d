"""Any program that prints lines: each is its note, and its exit code counts."""

from worker_stub.agent.facts import Facts, Kind, line_of


def _read(line: bytes) -> Facts:
    words = line_of(line.decode("utf-8", "replace"))
    return Facts(step=True, doing=words) if words else Facts()


KIND = Kind(program="the program", measured="", read=_read, is_told=False, ends=False)
