"""The workers' interface: their environment, and requests as one JSON object a line."""

import enum
from typing import Annotated

import msgspec

#: The variable by which the executor recognises a run's processes. Not secret.
MARKER = "DISPATCHER_RUN"

#: The variables that identify a run in log lines and output. None is secret.
TASK_VARIABLE = "DISPATCHER_TASK_ID"
IDENTITY_VARIABLES = (
    TASK_VARIABLE,
    "DISPATCHER_RUN_ID",
    "DISPATCHER_ATTEMPT",
    "DISPATCHER_FENCE",
    "DISPATCHER_QUEUE",
)

#: The marker of the outer run, in a dispatcher that is itself a task.
OUTER_MARKER = "DISPATCHER_RUN_OUTER"

#: The variable with the names of those that come from the `env_file` of the run's profile: a submit
#: inside the run stores none of them.
SECRETS = "DISPATCHER_SECRETS"

#: The variables that a clean task inherits from the executor; LC_* too.
ENVIRONMENT_ALLOWED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR")


def is_inherited(name: str) -> bool:
    """Return whether a clean task inherits the variable from the executor."""
    return name in ENVIRONMENT_ALLOWED or name.startswith("LC_")


#: Bytes of one line between a worker and the daemon.
MAX_LINE = 64 * 1024

#: Bytes of a task's parents with their results in `DISPATCHER_PARENTS`; longer ones are in the file
#: that `DISPATCHER_PARENTS_FILE` names.
MAX_PARENTS = 32 * 1024

#: The descriptor of a worker from which it reads that file.
PARENTS = 3

#: Characters of a note or a reason.
MAX_TEXT = 4096
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]

#: Bytes of a result, and of a checkpoint, as JSON.
MAX_RESULT = 32 * 1024

#: Characters of a question. With its answer it is a variable of the next run.
MAX_QUESTION = 16 * 1024

#: Bytes of an answer.
MAX_ANSWER = 32 * 1024

#: Bytes of both as JSON, which are one variable; the kernel allows 128 KiB with its name.
MAX_ANSWERED = 126 * 1024


#: Seconds of a delay.
MAX_DELAY = 10**9


class HoldKind(enum.StrEnum):
    """What a held task waits for, as its worker declares it."""

    NEEDS_INPUT = "needs_input"
    CAPABILITY = "capability"
    APPROVAL = "approval"


class WorkerRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="op"):
    """A worker's request; the lock authorises it."""

    task_id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    lock: str


class Heartbeat(WorkerRequest, frozen=True, tag="heartbeat"):
    """Renew the lease."""

    progress: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    note: Text | None = None
    checkpoint: msgspec.Raw = msgspec.Raw()


class Succeed(WorkerRequest, frozen=True, tag="succeed"):
    """Declare success."""

    result: msgspec.Raw = msgspec.Raw()


class Fail(WorkerRequest, frozen=True, tag="fail"):
    """Declare failure."""

    reason: Text
    retry: bool = True


class Defer(WorkerRequest, frozen=True, tag="defer"):
    """Request another run later: after `delay` seconds, or from the date `until` on.

    With `close`, a named limit that the task takes lets nothing start until then.
    """

    delay: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY)] | None = None
    until: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    close: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    reason: Text | None = None


class Hold(WorkerRequest, frozen=True, tag="hold"):
    """Hold the task for an operator, whose answer the next run finds."""

    reason: Text
    question: Annotated[str, msgspec.Meta(max_length=MAX_QUESTION)] | None = None
    kind: HoldKind | None = None


AnyRequest = Heartbeat | Succeed | Fail | Defer | Hold

decode_request = msgspec.json.Decoder(AnyRequest).decode


class WorkerError(enum.StrEnum):
    """The errors with which the daemon refuses a request."""

    NOT_OWNER = "not_owner"
    SUPERSEDED = "superseded"
    NOT_RUNNING = "not_running"
    UNKNOWN_TASK = "unknown_task"
    ALREADY_DECLARED = "already_declared"
    NOT_TAKEN = "not_taken"
    STORE_UNAVAILABLE = "store_unavailable"
    NOT_ALLOWED = "not_allowed"
    INVALID = "invalid"
