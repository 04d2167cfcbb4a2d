"""Makes tasks from options and the configuration."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

from msgspec.structs import asdict

from dispatcher.config import limit_settings, limits, profiles, template
from dispatcher.config.config import Config
from dispatcher.config.task_settings import TaskDefaults
from dispatcher.dependency import ParentFailure, TaskKey
from dispatcher.environment import Environment
from dispatcher.errors import InvalidTask
from dispatcher.execution import BUILT_IN, KILL_GRACE_MS
from dispatcher.model import Liveness
from dispatcher.new_task import NewTask
from dispatcher.task_checks import (
    CHOICES,
    check_name,
    check_number,
    check_payload,
    checked,
    refuse_command_line,
    signal_number,
    typed,
)
from dispatcher.times import WallTime
from dispatcher.wire import KillMode


class TaskOptions(TypedDict, total=False):
    """A task as keyword arguments. Missing or None: the configuration's default."""

    profile: str | None
    queue: str | None
    priority: int | None
    max_attempts: int | None
    delay_ms: int | None
    start_at: WallTime | None
    """A date; the later of both counts."""
    cwd: str | None
    environment: Environment | None
    """Its submitter's. A profile has none, and no umask of a submitter."""
    umask: int | None
    clean_env: bool | None
    """Whether to leave out both of them."""
    env: Mapping[str, str] | None
    payload: str | None
    key: str | None
    concurrency_key: str | None
    """At most one of the tasks of a queue with the same one runs at a time."""
    labels: Mapping[str, str] | None
    requires: Mapping[str, str] | None
    """Labels that a node must have to run it."""
    limits: Mapping[str, int] | None
    """Named limits that its runs take, and how much of each."""
    after: Sequence[int | str | TaskKey] | None
    """Ids of tasks, or their keys in its own queue, that must succeed before it runs."""
    after_any: Sequence[int | str | TaskKey] | None
    """Tasks that must only finish."""
    on_parent_failure: ParentFailure | None
    liveness: Liveness | None
    notify: bool | None
    lease_ttl_ms: int | None
    run_timeout_ms: int | None
    stall_timeout_ms: int | None
    start_timeout_ms: int | None
    queue_timeout_ms: int | None
    total_timeout_ms: int | None
    kill_signal: int | str | None
    """Its name ("INT", "SIGINT") or number."""
    kill_mode: KillMode | None
    kill_grace_ms: int | None
    backoff_min_ms: int | None
    backoff_max_ms: int | None
    cooldown_ms: int | None
    max_deferrals: int | None
    max_orphans: int | None


#: Kill grace and retry policy, which are fixed at the submit; the values are those of a task that
#: stores none.
FIXED: Final[Mapping[str, int]] = {"kill_grace_ms": KILL_GRACE_MS, **asdict(BUILT_IN)}


def new_task(config: Config, command: Sequence[str], options: TaskOptions) -> NewTask:
    """Return a task with all defaults; the default working directory is the caller's.

    Raises `InvalidTask`, which names the option and the remedy.
    """
    if isinstance(command, str | bytes) or not isinstance(command, Iterable):
        raise InvalidTask('command: must be a list of arguments, for example ["echo", "hello"]')
    options = {**options, **typed(options, TaskOptions)}
    given = {name: value for name, value in options.items() if value is not None}
    given = _without_shell(given) if given.pop("clean_env", False) else given
    if isinstance(payload := given.get("payload"), str):
        given["payload"] = payload.removeprefix("\ufeff")  # a byte order mark of an editor
    if (name := given.pop("profile", None)) is not None:
        command, given = _from_profile(config, str(name), command, given)
    elif not config.defaults.allow_commands:
        raise InvalidTask(
            f"command: only profiles may be run here{profiles.known(config)}; add --profile"
        )
    wanted = {"queue": config.defaults.queue, **given}
    if (queue := config.queues.get(wanted["queue"])) is not None:  # type: ignore[call-overload]
        wanted = {**_defaults(queue), **wanted, **_both(queue, wanted)}
        wanted["ageing_ms"] = queue.ageing_ms
    wanted |= _parents(wanted) | _taken(config, wanted.pop("limits", {}))  # type: ignore[arg-type]
    liveness = wanted.setdefault("liveness", Liveness.PROCESS)
    leases = config.leases
    wanted = {
        "priority": config.defaults.priority,
        "max_attempts": config.retry.max_attempts,
        "lease_ttl_ms": leases.worker_ttl_ms if liveness == Liveness.WORKER else leases.ttl_ms,
        **wanted,
        **fixed(config, {name: wanted.get(name) for name in FIXED}),  # type: ignore[misc]
    }
    if liveness == Liveness.PROCESS and options.get("start_timeout_ms") is None:
        wanted.pop("start_timeout_ms", None)
    cwd = wanted["cwd"] = directory(given.get("cwd"))  # type: ignore[arg-type]
    if name is None:
        refuse_command_line(command, cwd, given.get("env"))  # type: ignore[arg-type]
    if (signal := wanted.get("kill_signal")) is not None:
        wanted["kill_signal"] = signal_number(signal)
    return checked(NewTask(command=tuple(command), **wanted))  # type: ignore[arg-type]


def _parents(wanted: Mapping[str, Any]) -> dict[str, object]:
    """Return the parents as `NewTask` has them, each once: a text is a key of the task's queue.

    Raises `InvalidTask` for a rule without parents.
    """
    if wanted.get("on_parent_failure") is not None and not wanted.get("after"):
        raise InvalidTask("on_parent_failure: it has no parents that must succeed; add --after")
    found: dict[str, object] = {}
    for option in wanted.keys() & {"after", "after_any"}:
        named = (
            TaskKey(wanted["queue"], one) if isinstance(one, str) else one for one in wanted[option]
        )
        found[option] = tuple(dict.fromkeys(named))
    return found


def fixed(config: Config, given: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the `FIXED` values of a task as `NewTask` has them.

    Those that are None are the configuration's, but a bound of the back-off never contradicts the
    other one that is given: then it equals that.
    """
    values = {
        name: getattr(config.leases if name == "kill_grace_ms" else config.retry, name)
        for name in given
    } | {name: value for name, value in given.items() if value is not None}
    least, most = "backoff_min_ms", "backoff_max_ms"
    if least in given and most in given and values[least] > values[most]:
        if given[least] is None:
            values[least] = values[most]
        elif given[most] is None:
            values[most] = values[least]
    return {name: None if value == FIXED[name] else value for name, value in values.items()}


def _from_profile(
    config: Config, name: str, command: Sequence[str], options: Mapping[str, object]
) -> tuple[Sequence[str], dict[str, object]]:
    """Return a profile's command for a payload, and the options with the profile's defaults."""
    if command:
        raise InvalidTask(f"command: profile {name!r} brings its own; leave the command out")
    profile = profiles.named(config, name)
    payload = options.get("payload")
    check_payload(payload)  # type: ignore[arg-type]
    own = {"queue": profile.queue, "cwd": profile.cwd, **_defaults(profile)}
    wanted = {**own, **_without_shell(options)}
    wanted["umask"] = None if profile.umask is None else limits.umask(profile.umask)
    wanted |= _both(profile, options)
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


def _both(defaults: TaskDefaults, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the labels and the limits of the defaults, and those of the options."""
    return {
        name: {**(getattr(defaults, name) or {}), **options.get(name, {})}
        for name in ("requires", "limits")
    }


def _taken(config: Config, limits: Mapping[str, int]) -> dict[str, object]:
    """Return what a task takes, as `NewTask` has it. Raises `InvalidTask` for what it cannot."""
    for mistake in limit_settings.unusable(limits, config.limits):
        raise InvalidTask(f"limit: {mistake}")
    return {"takes": limits}


def _without_shell(options: Mapping[str, object]) -> dict[str, object]:
    """Return options without what a task gets of its submitter's shell."""
    return {name: options[name] for name in options if name not in {"environment", "umask"}}


def _defaults(given: TaskDefaults) -> dict[str, object]:
    """Return the defaults of a queue or profile as `TaskOptions`."""
    named = ((name, getattr(given, name)) for name in TaskDefaults.__struct_fields__)
    return {
        name: CHOICES[name](value) if name in CHOICES else value
        for name, value in named
        if value is not None
    }


def directory(cwd: str | None) -> str:
    """Return a working directory from here [default: this one]. Raises `InvalidTask`."""
    if cwd == "":
        raise InvalidTask("cwd: is empty; name a directory, or leave it out")
    try:
        return str(Path(cwd or "").absolute())
    except FileNotFoundError:
        raise InvalidTask("cwd: the present directory was removed; name another") from None


def check_claim(queue: str, lease_ttl_ms: int | None) -> None:
    """Raise `InvalidTask` for an invalid name of a queue, or lease of a claim."""
    check_queue(queue)
    if lease_ttl_ms is not None:
        typed({"lease_ttl_ms": lease_ttl_ms}, TaskOptions)
        check_number("lease_ttl", lease_ttl_ms, limits.LEAST_LEASE, limits.LONGEST)


def check_queue(queue: str) -> None:
    """Raise `InvalidTask` for an invalid name of a queue, of any type."""
    typed({"queue": queue}, TaskOptions)
    check_name("queue", queue)
