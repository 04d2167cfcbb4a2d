"""The names that worker and daemon share; a contract test compares them with the dispatcher."""

#: Exit code of a worker whose claim is no longer its own.
LEASE_LOST = 79

#: Bytes of one line, each way.
MAX_LINE = 64 * 1024

#: Characters of a note.
MAX_TEXT = 4096

#: Characters of a question.
MAX_QUESTION = 16 * 1024

#: Seconds of a delay.
MAX_DELAY = 10**9

#: Bytes of a result, and of a checkpoint, as JSON.
MAX_RESULT = 32 * 1024

TASK_ID = "DISPATCHER_TASK_ID"
FENCE = "DISPATCHER_FENCE"
CLAIM_LOCK = "DISPATCHER_CLAIM_LOCK"
SOCKET = "DISPATCHER_SOCKET"
LEASE_TTL = "DISPATCHER_LEASE_TTL"
HEARTBEAT_INTERVAL = "DISPATCHER_HEARTBEAT_INTERVAL"
PARENTS = "DISPATCHER_PARENTS"
PARENTS_FILE = "DISPATCHER_PARENTS_FILE"
ATTEMPT = "DISPATCHER_ATTEMPT"
QUEUE = "DISPATCHER_QUEUE"
PREVIOUS = "DISPATCHER_PREVIOUS"
CHECKPOINT = "DISPATCHER_CHECKPOINT"
ANSWER = "DISPATCHER_ANSWER"

#: The adapter's socket for the MCP server of its agent: `@` and an abstract name.
AGENT_SOCKET = "DISPATCHER_AGENT_SOCKET"

#: Refusals after which a worker stops: its claim is gone, or it may not use the socket.
LOST = frozenset({"not_owner", "superseded", "not_running", "unknown_task", "not_allowed"})

#: The refusal that means "try again", never "stop".
STORE_UNAVAILABLE = "store_unavailable"

#: The refusal to close a limit that the task does not take; nothing is declared.
NOT_TAKEN = "not_taken"

#: The refusal of an invalid request; the claim is unchanged.
INVALID = "invalid"
