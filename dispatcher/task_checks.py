"""Checks the values of a task: each mistake has a remedy."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dispatcher import lanes
from dispatcher.complaints import NO_NAME, UNREADABLE, in_words
from dispatcher.config import limits
from dispatcher.config.section import MAX_LABEL, MAX_LABELS, NAME
from dispatcher.dependency import ParentFailure, TaskKey
from dispatcher.errors import InvalidTask
from dispatcher.model import Liveness
from dispatcher.new_task import NewTask, is_rule
from dispatcher.quantities import signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import WallTime
from dispatcher.wire import KillMode
from dispatcher.words import plain

#: Bytes of a command with its arguments: the limit of one argument, which every host can exec.
MAX_COMMAND = 128 * 1024

#: Bytes of a variable with its name that each host can pass to a program (execve(2)).
MAX_VARIABLE = 128 * 1024 - 1

#: Bytes of a payload.
MAX_PAYLOAD = 1024 * 1024

#: Bytes of a task's variables as JSON, its submitter's and its own. With them, command and payload
#: fit into one line to the executor even if each character needs an escape.
MAX_ENVIRONMENT = 1024 * 1024

#: The largest id that a row can have.
MAX_ID = 2**63 - 1

#: Tasks that one may wait for.
MAX_PARENTS = 1000

#: Bytes of a path (PATH_MAX without its NUL).
MAX_PATH = 4095

#: Bytes of the labels and limits that a task needs, as JSON: they are part of an index, of which a
#: row has at most 2704 bytes on a server.
MAX_NEEDS = 2000

#: Characters of a line for a shell; few programs have one in their name.
_FOR_SHELLS = frozenset(" \t\n;&|<>()$`\"'*?")

#: What paths of programs begin with.
_PATHS = ("/", "./", "../")

#: Characters of such a line that a message repeats.
_MOST_SHOWN = 200

_FIELDS = NewTask.__struct_fields__

#: Fields with a fixed choice of words.
CHOICES: Mapping[str, type[Liveness | KillMode | ParentFailure]] = {
    "liveness": Liveness,
    "kill_mode": KillMode,
    "on_parent_failure": ParentFailure,
}


def checked(task: NewTask) -> NewTask:
    """Return a task whose values have their types, so that it can be stored and sent unchanged.

    Raises `InvalidTask` for the first mistake.
    """
    task = typed({name: getattr(task, name) for name in _FIELDS}, NewTask)
    _check(task)
    return task


def typed(given: Mapping[str, object], kind: type[Any]) -> Any:
    """Convert values to a type. Raises `InvalidTask`, which names the field."""
    try:
        return msgspec.convert(plain(given), kind)
    except msgspec.ValidationError as error:
        choices = next((list(CHOICES[name]) for name in CHOICES if f".{name}`" in str(error)), [])
        raise InvalidTask(in_words(error, given, choices=choices)) from None


def _check(task: NewTask) -> None:
    _check_command(task.command)
    check_payload(task.payload)
    _check_environment(task)
    _check_labels("label", task.labels)
    _check_labels("require", task.requires)
    _check_labels("limit", dict.fromkeys(task.takes, ""))
    if (size := len(lanes.lane(task.requires, task.takes).encode())) > MAX_NEEDS:
        raise InvalidTask(
            f"require, limit: {size} bytes are more than {MAX_NEEDS} together; leave some out, or"
            " shorten them"
        )
    _check_rules(task.rules)
    _check_parents("after", task, task.after)
    _check_parents("after_any", task, task.after_any)
    check_number("priority", task.priority, -(2**31), 2**31 - 1)
    check_number("max_attempts", task.max_attempts, 1, 2**31 - 1)
    check_number("lease_ttl", task.lease_ttl_ms, limits.LEAST_LEASE, limits.LONGEST)
    check_number("delay", task.delay_ms, Milliseconds(0), limits.LONGEST)
    check_start(task.start_at)
    for name in limits.BUDGETS:
        check_number(name, getattr(task, name) or 0, 0, 2**31 - 1)
    limits.check(task)
    check_name("queue", task.queue)
    if task.key is not None and not _text("key", task.key, 255):
        raise InvalidTask("key: is empty; leave it out, or name what must happen only once")
    one_of = task.concurrency_key
    if one_of is not None and not _text("concurrency_key", one_of, 255):
        raise InvalidTask("concurrency_key: is empty; leave it out, or name what they share")
    if task.profile is not None:
        _text("profile", task.profile, 255)
    if task.cwd is not None:
        _text("cwd", task.cwd, MAX_PATH)
        if not task.cwd.startswith("/"):
            raise InvalidTask(f"cwd: {task.cwd!r} is not absolute; begin it with /")
        if limits.CONTROL.search(task.cwd):
            raise InvalidTask(f"cwd: {limits.unprintable_path(task.cwd)}")


def _check_command(command: tuple[str, ...]) -> None:
    if not command or not command[0]:
        raise InvalidTask("command: is empty; name a program, for example: -- echo hello")
    size = sum(_size("command", argument) + 1 for argument in command)
    if size > MAX_COMMAND:
        raise InvalidTask(
            f"command: {size} bytes are more than {MAX_COMMAND};"
            " pass what is long as the payload, or in a file"
        )


def refuse_command_line(command: Sequence[str], cwd: str, env: Mapping[str, str] | None) -> None:
    """Raise `InvalidTask` for a first word that is not a program but a line for a shell."""
    word = command[0] if command else ""
    if not isinstance(word, str) or _FOR_SHELLS.isdisjoint(word):
        return
    search = (env or {}).get("PATH") or os.environ.get("PATH", os.defpath)
    directories = [""] if "/" in word else search.split(":")
    if any(os.path.lexists(Path(cwd, directory, word)) for directory in directories):
        return
    if (
        len(command) > 1
        and word.startswith(_PATHS)
        and _FOR_SHELLS.isdisjoint(word.replace(" ", ""))
    ):
        return  # a path with a blank, which may exist later
    if len(word) > _MOST_SHOWN or not word.isprintable():
        raise InvalidTask("command: its first word is not a program; write: sh -c '...'")
    if len(command) > 1:
        raise InvalidTask(f"command: {word!r} is not a program; write: sh -c '...'")
    import shlex  # noqa: PLC0415 - for advice alone

    raise InvalidTask(f"command: {word!r} is not a program; write: sh -c {shlex.quote(word)}")


def check_payload(payload: str | None) -> None:
    """Raise `InvalidTask` for a payload that is too long or not JSON."""
    if payload is None:
        return
    if (size := _size("payload", payload)) > MAX_PAYLOAD:
        raise InvalidTask(
            f"payload: {size} bytes are more than {MAX_PAYLOAD}; name a file in it that holds them"
        )
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except UNREADABLE as error:
        fault = in_words(error, text=payload)
        raise InvalidTask(
            f"""payload: {fault}; write for example: '{{"month": "2026-08"}}'"""
        ) from None


def _check_environment(task: NewTask) -> None:
    for name, value in task.env.items():
        check_variable(name)
        if (size := _size(f"env {name}", f"{name}={value}")) > MAX_VARIABLE:
            raise InvalidTask(
                f"env {name}: {size} bytes with its name are more than {MAX_VARIABLE}; use the"
                " payload, or name a file that holds it"
            )
    own = size_of_variables(task.env)
    if own > MAX_ENVIRONMENT:
        raise InvalidTask(f"env: more than {MAX_ENVIRONMENT} bytes in all; use the payload")
    if task.environment is not None and own + task.environment.size > MAX_ENVIRONMENT:
        raise InvalidTask(
            f"environment: more than {MAX_ENVIRONMENT} bytes in all; unset what is large, or submit"
            " with --clean-env"
        )
    if task.umask is not None and not 0 <= task.umask <= 0o777:
        raise InvalidTask(f"umask: must be from 0 to 0o777, not {task.umask:#o}")


def size_of_variables(env: Mapping[str, str]) -> int:
    """Return the bytes of a task's own variables, as `MAX_ENVIRONMENT` counts them."""
    return len(msgspec.json.encode(dict(env)))


def check_variable(name: str) -> None:
    """Raise `InvalidTask` for an invalid name of a variable."""
    _text("env", name, MAX_ENVIRONMENT)
    try:
        limits.check_variable(name)
    except ValueError as error:
        raise InvalidTask(f"env: {error}") from None


def signal_number(given: object) -> int:
    """Return the number of a signal named by its name or number. Raises `InvalidTask`."""
    try:
        return signal_names.parse(given)
    except ValueError as error:
        raise InvalidTask(f"kill_signal: {error}") from None


def _check_labels(option: str, labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidTask(
            f"{option}: {len(labels)} labels are more than {MAX_LABELS}; leave some out"
        )
    for name, value in labels.items():
        check_name(option, name)
        _text(f"{option} {name}", value, MAX_LABEL)


def _check_rules(rules: Mapping[str, str]) -> None:
    for name, word in rules.items():
        _text("rules", name, 100)
        if not is_rule(name, word):
            raise InvalidTask(f"rules: {name}: {word!r} is not a rule; leave rules to profiles")


def _check_parents(option: str, task: NewTask, parents: tuple[int | TaskKey, ...]) -> None:
    if len(parents) > MAX_PARENTS:
        raise InvalidTask(
            f"{option}: {len(parents)} parents are more than {MAX_PARENTS}; let it wait for a task"
            " that waits for some of them"
        )
    for parent in parents:
        if isinstance(parent, int):
            check_number(option, parent, 1, MAX_ID)
        elif not _text(option, parent.key, 255):
            raise InvalidTask(f"{option}: a key is empty; give the id or the key of a task")
        elif parent == TaskKey(task.queue, task.key or ""):
            raise InvalidTask(f"{option}: it would wait for itself; give the key of another task")


def check_name(option: str, name: str) -> None:
    """Raise `InvalidTask` for an invalid name of a queue or label."""
    _text(option, name, 100)
    if not re.fullmatch(NAME, name):
        raise InvalidTask(f"{option}: {name!r} {NO_NAME}")


def check_number(option: str, number: int, least: int, most: int) -> None:
    """Raise `InvalidTask` for a number outside of its bounds."""
    if not least <= number <= most:
        raise InvalidTask(f"{option}: must be from {least} to {most}, not {type(most)(number)}")


def check_start(start_at: WallTime | None) -> None:
    """Raise `InvalidTask` for a date that no start may have."""
    if start_at is not None:
        check_number("start_at", start_at, 0, limits.LATEST)


def _text(option: str, text: str, limit: int) -> int:
    """Return a text's bytes. Raises `InvalidTask` if too long, or unfit for a process."""
    if (size := _size(option, text)) > limit:
        raise InvalidTask(f"{option}: {size} bytes are more than {limit}; shorten it")
    return size


def _size(option: str, text: str) -> int:
    if "\0" in text:
        raise InvalidTask(f"{option}: holds a NUL character, which no process can be given")
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidTask(f"{option}: is not UTF-8; encode it so") from None
