"""Makes tasks from options and the configuration, and checks them: each mistake has a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict, get_args

import msgspec

from dispatcher.complaints import NO_NAME, UNREADABLE, in_words
from dispatcher.config import limits, template
from dispatcher.config.config import Config
from dispatcher.config.section import NAME
from dispatcher.config.task_settings import Meaning, TaskDefaults
from dispatcher.errors import InvalidTask, did_you_mean
from dispatcher.model import Liveness, NewTask
from dispatcher.quantities import signal_names
from dispatcher.quantities.durations import Milliseconds
from dispatcher.wire import KillMode
from dispatcher.words import plain

#: Bytes of a command with its arguments: the limit of one argument, which every host can exec.
MAX_COMMAND = 128 * 1024

#: Bytes of a payload.
MAX_PAYLOAD = 1024 * 1024

#: Bytes of a task's environment as JSON. With it, command and payload fit into one line to the
#: executor even if each character needs an escape.
MAX_ENVIRONMENT = 1024 * 1024

#: Bytes of a path (PATH_MAX without its NUL); number of labels.
MAX_PATH = 4095
MAX_LABELS = 64

#: Fields with a fixed choice of words.
_WORDS: Mapping[str, type[Liveness | KillMode]] = {"liveness": Liveness, "kill_mode": KillMode}

#: Rules of profiles that do not concern exit codes.
_RULES = frozenset({("lost", "orphaned"), ("leftovers", "report"), ("output", "journal")})


class TaskOptions(TypedDict, total=False):
    """A task as keyword arguments. Missing or None: the configuration's default."""

    profile: str | None
    queue: str | None
    priority: int | None
    max_attempts: int | None
    delay_ms: int | None
    cwd: str | None
    env: Mapping[str, str] | None
    payload: str | None
    key: str | None
    labels: Mapping[str, str] | None
    liveness: Liveness | None
    notify: bool | None
    lease_ttl_ms: int | None
    run_timeout_ms: int | None
    stall_timeout_ms: int | None
    start_timeout_ms: int | None
    queue_timeout_ms: int | None
    total_timeout_ms: int | None
    kill_grace_ms: int | None
    kill_signal: int | str | None
    """Its name ("INT", "SIGINT") or number."""
    kill_mode: KillMode | None


def new_task(config: Config, command: Sequence[str], options: TaskOptions) -> NewTask:
    """Return a task with all defaults; the default working directory is the caller's.

    Raises `InvalidTask`, which names the option and the remedy.
    """
    if isinstance(command, str | bytes) or not isinstance(command, Iterable):
        raise InvalidTask('command: must be a list of arguments, for example ["echo", "hello"]')
    options = {**options, **_typed(options, TaskOptions)}
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(payload := given.get("payload"), str):
        given["payload"] = payload.removeprefix("\ufeff")  # a byte order mark of an editor
    if (name := given.pop("profile", None)) is not None:
        command, given = _from_profile(config, str(name), command, given)
    elif not config.defaults.allow_commands:
        raise InvalidTask(f"command: only profiles may be run here{_known(config)}; add --profile")
    wanted = {"queue": config.defaults.queue, **given}
    if (queue := config.queues.get(wanted["queue"])) is not None:  # type: ignore[call-overload]
        wanted = {**_defaults(queue), **wanted}
    liveness = wanted.setdefault("liveness", Liveness.PROCESS)
    leases = config.leases
    wanted = {
        "priority": config.defaults.priority,
        "max_attempts": config.retry.max_attempts,
        "lease_ttl_ms": leases.worker_ttl_ms if liveness == Liveness.WORKER else leases.ttl_ms,
        **wanted,
    }
    if liveness == Liveness.PROCESS and options.get("start_timeout_ms") is None:
        wanted.pop("start_timeout_ms", None)
    wanted["cwd"] = _directory(given.get("cwd"))  # type: ignore[arg-type]
    if (signal := wanted.get("kill_signal")) is not None:
        wanted["kill_signal"] = _signal_number(signal)
    return checked(NewTask(command=tuple(command), **wanted))  # type: ignore[arg-type]


def _from_profile(
    config: Config, name: str, command: Sequence[str], options: Mapping[str, object]
) -> tuple[Sequence[str], dict[str, object]]:
    """Return a profile's command for a payload, and the options with the profile's defaults."""
    if command:
        raise InvalidTask(f"command: profile {name!r} brings its own; leave the command out")
    if (profile := config.profiles.get(name)) is None:
        near = did_you_mean(name, config.profiles) or _known(config)
        raise InvalidTask(f"profile: there is no {name!r}{near}")
    payload = options.get("payload")
    _check_payload(payload)  # type: ignore[arg-type]
    wanted = {"queue": profile.queue, "cwd": profile.cwd, **_defaults(profile), **options}
    wanted["env"] = {**(profile.env or {}), **options.get("env", {})}  # type: ignore[dict-item]
    wanted["profile"] = name
    wanted["rules"] = {
        **(profile.exit_codes or {}),
        **({"lost": "orphaned"} if profile.lost == "orphan" else {}),
        **({"leftovers": "report"} if profile.leftovers == "report" else {}),
        **({"output": "journal"} if profile.output == "journal" else {}),
    }
    filled = template.fill(profile.command, payload)  # type: ignore[arg-type]
    return filled, {key: value for key, value in wanted.items() if value is not None}


def _known(config: Config) -> str:
    return f"; known are: {', '.join(config.profiles) or 'none'}"


def _defaults(given: TaskDefaults) -> dict[str, object]:
    """Return the defaults of a queue or profile as `TaskOptions`."""
    named = ((name, getattr(given, name)) for name in TaskDefaults.__struct_fields__)
    return {
        name: _WORDS[name](value) if name in _WORDS else value
        for name, value in named
        if value is not None
    }


def checked(task: NewTask) -> NewTask:
    """Return a task whose values have their types, so that it can be stored and sent unchanged.

    Raises `InvalidTask` for the first mistake.
    """
    task = _typed({field.name: getattr(task, field.name) for field in fields(NewTask)}, NewTask)
    _check(task)
    return task


def _typed(given: Mapping[str, object], kind: type[Any]) -> Any:
    """Convert values to a type. Raises `InvalidTask`, which names the field."""
    try:
        return msgspec.convert(plain(given), kind)
    except msgspec.ValidationError as error:
        choices = next((list(_WORDS[name]) for name in _WORDS if f".{name}`" in str(error)), [])
        raise InvalidTask(in_words(error, given, choices=choices)) from None


def _check(task: NewTask) -> None:
    _check_command(task.command)
    _check_payload(task.payload)
    _check_environment(task.env)
    _check_labels(task.labels)
    _check_rules(task.rules)
    _check_number("priority", task.priority, -(2**31), 2**31 - 1)
    _check_number("max_attempts", task.max_attempts, 1, 2**31 - 1)
    _check_number("lease_ttl", task.lease_ttl_ms, limits.LEAST_LEASE, limits.LONGEST)
    _check_number("delay", task.delay_ms, Milliseconds(0), limits.LONGEST)
    limits.check(task)
    check_name("queue", task.queue)
    if task.key is not None and not _text("key", task.key, 255):
        raise InvalidTask("key: is empty; leave it out, or name what must happen only once")
    if task.profile is not None:
        _text("profile", task.profile, 255)
    if task.cwd is not None:
        _text("cwd", task.cwd, MAX_PATH)
        if not task.cwd.startswith("/"):
            raise InvalidTask(f"cwd: {task.cwd!r} is not absolute; begin it with /")
        if limits.CONTROL.search(task.cwd):
            raise InvalidTask(f"cwd: {limits.unprintable_path(task.cwd)}")


def _signal_number(given: object) -> int:
    try:
        return signal_names.parse(given)
    except ValueError as error:
        raise InvalidTask(f"kill_signal: {error}") from None


def _directory(cwd: str | None) -> str:
    try:
        return str(Path(cwd or "").absolute())
    except FileNotFoundError:
        raise InvalidTask("cwd: the present directory was removed; name another") from None


def _check_command(command: tuple[str, ...]) -> None:
    if not command or not command[0]:
        raise InvalidTask("command: is empty; name a program, for example: -- echo hello")
    size = sum(_size("command", argument) + 1 for argument in command)
    if size > MAX_COMMAND:
        raise InvalidTask(
            f"command: {size} bytes are more than {MAX_COMMAND};"
            " pass what is long as the payload, or in a file"
        )


def _check_payload(payload: str | None) -> None:
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


def _check_environment(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        check_variable(name)
        _text(f"env {name}", value, MAX_ENVIRONMENT)
    if len(msgspec.json.encode(dict(env))) > MAX_ENVIRONMENT:
        raise InvalidTask(f"env: more than {MAX_ENVIRONMENT} bytes in all; use the payload")


def check_variable(name: str) -> None:
    """Raise `InvalidTask` for an invalid name of a variable."""
    _text("env", name, MAX_ENVIRONMENT)
    try:
        limits.check_variable(name)
    except ValueError as error:
        raise InvalidTask(f"env: {error}") from None


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidTask(f"label: {len(labels)} labels are more than {MAX_LABELS}; leave some out")
    for name, value in labels.items():
        check_name("label", name)
        _text(f"label {name}", value, 255)


def _check_rules(rules: Mapping[str, str]) -> None:
    for name, word in rules.items():
        _text("rules", name, 100)
        if (name, word) not in _RULES and word not in get_args(Meaning):
            raise InvalidTask(f"rules: {name}: {word!r} is no rule; leave rules to profiles")


def check_claim(queue: str, lease_ttl_ms: int | None) -> None:
    """Raise `InvalidTask` for an invalid name of a queue, or lease of a claim."""
    check_queue(queue)
    if lease_ttl_ms is not None:
        _typed({"lease_ttl_ms": lease_ttl_ms}, TaskOptions)
        _check_number("lease_ttl", lease_ttl_ms, limits.LEAST_LEASE, limits.LONGEST)


def check_queue(queue: str) -> None:
    """Raise `InvalidTask` for an invalid name of a queue, of any type."""
    _typed({"queue": queue}, TaskOptions)
    check_name("queue", queue)


def check_name(option: str, name: str) -> None:
    """Raise `InvalidTask` for an invalid name of a queue or label."""
    _text(option, name, 100)
    if not re.fullmatch(NAME, name):
        raise InvalidTask(f"{option}: {name!r} {NO_NAME}")


def _check_number(option: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise InvalidTask(f"{option}: must be from {least} to {most}, not {type(most)(number)}")


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
