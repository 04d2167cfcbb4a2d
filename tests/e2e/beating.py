"""A worker that beats each 0.3 s until a stop file appears, started as fast as possible."""

from tests.e2e.helpers import python

#: A lease that three beats fit into, and one attempt: who loses it fails for good.
LEASE = {"liveness": "worker", "lease_ttl": "1s", "max_attempts": 1}

_BEATS = """
import json, os, socket, time
request = {"op": "heartbeat", "lock": os.environ["DISPATCHER_CLAIM_LOCK"],
           "task_id": int(os.environ["DISPATCHER_TASK_ID"])}
line = json.dumps(request).encode() + b"\\n"
kept = None
while not os.path.exists("stop"):
    try:
        stream = kept or socket.socket(socket.AF_UNIX)
        if stream is not kept:
            stream.connect(os.environ["DISPATCHER_SOCKET"])
        stream.sendall(line)
        answer = b""
        while not answer.endswith(b"\\n"):
            chunk = stream.recv(4096)
            if not chunk: raise ConnectionResetError
            answer += chunk
    except (ConnectionError, BlockingIOError):  # as every client of the daemon does: once more
        kept = None
        time.sleep(0.05)
        continue
    kept = stream if KEEP else None
    again = b"store_unavailable" in answer
    assert again or json.loads(answer)["ok"], answer
    time.sleep(0.05 if again else 0.3)
"""


def beating(*, keep: bool = False) -> list[str]:
    """Return its command; it keeps one connection, or makes a new one each time."""
    return python(f"KEEP = {keep}\n{_BEATS}")
